"""The HTTP bodies that belong to the protection of events from anonymous clients."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from api.edge.schemas import Wire
from shared.domain.commands import AT_THE_END, Register

SPOTS_PER_ADDRESS_MAX = 10_000
Solution = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4_096,
        pattern=r"^[A-Za-z0-9+/]+={0,2}$" + AT_THE_END,
        description="the solution of a challenge, as ALTCHA's widget sends it",
        extra={"rule": "must be the solution of a challenge, in the form of ALTCHA"},
    ),
]


class Registering(Register, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A registration as the public asks for it; `altcha` is the solution of a challenge, if one is needed."""

    altcha: Solution | UnsetType = UNSET

    @property
    def command(self) -> Register:
        """The command that asks for it."""
        return Register(name=self.name, spots_count=self.spots_count, email=self.email)


class Protection(Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The protection of an event from anonymous clients; what is left out is off.

    `spotsPerAddress` bounds the spots that one address may ask for, `challenge` asks for a proof of work.
    """

    spots_per_address: Annotated[int, Meta(ge=1, le=SPOTS_PER_ADDRESS_MAX)] | None = None
    challenge: bool = False

    @property
    def is_on(self) -> bool:
        """True if it protects from anything."""
        return self.challenge or self.spots_per_address is not None
