"""What an event consists of while its owner decides: settings, registrations, changes (pure)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.domain.commands import ChangeEvent, Status
from shared.domain.promotion import Policy, Waiter

PROMOTION = "promotion"
"""The kind of a change that no command asked for by name: freed spots went to whoever was next."""


class Terms(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The settings of an event that decisions depend on; `waitlist_limit` None means no limit."""

    title: str
    capacity: int
    waitlist_enabled: bool
    waitlist_limit: int | None
    promotion_policy: Policy
    auto_promote: bool
    max_spots_per_registration: int
    opens_at: datetime | None
    closes_at: datetime | None
    paused: bool

    def changed(self, command: ChangeEvent) -> "Terms":
        """Return the settings with what the command gives."""
        given = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(command, name)) is not msgspec.UNSET
        }
        if "promotion_policy" in given:
            given["promotion_policy"] = Policy(given["promotion_policy"])
        return msgspec.structs.replace(self, **given)

    def differences(self, after: "Terms") -> dict[str, tuple[Any, Any]]:
        """Return `(before, after)` of every setting that differs, as plain values under its name in JSON."""
        old, new = msgspec.to_builtins(self), msgspec.to_builtins(after)
        return {
            name: (old[name], new[name])
            for field, name in zip(self.__struct_fields__, self.__struct_encode_fields__, strict=True)
            if getattr(self, field) != getattr(after, field)  # one moment has many spellings
        }


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One party at the event; `seq` is its place. Adopted ones were made by no command."""

    id: UUID
    seq: int
    command_id: UUID | None
    name: str
    email: str | None
    spots_count: int
    status: Status

    @property
    def spots_held(self) -> int:
        """How many spots of the capacity it takes."""
        return self.spots_count if self.status is Status.CONFIRMED else 0

    @property
    def waiter(self) -> Waiter:
        """It in the waitlist."""
        return Waiter(self.seq, self.id, self.spots_count)

    def become(self, status: Status, *, seq: int | None = None) -> "Registration":
        """Return it with another status, and another place where one is given."""
        return msgspec.structs.replace(self, status=status, seq=self.seq if seq is None else seq)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit trail, without its number, time and hash.

    A change of a registration's status has its id; of the event's settings or counter has none.
    `before_after` holds `[before, after]` of every setting that changed.
    """

    kind: str
    command_id: UUID
    actor: str
    reason: str | None
    registration_id: UUID | None
    from_status: Status | None
    to_status: Status | None
    spots_delta: int
    spots_reserved: int
    before_after: Mapping[str, tuple[Any, Any]] | None = None


class Recount(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows say, whatever the counters do, and where the audit trail ends.

    Confirmed spots and registrations that wait; `audited_spots` is the counter after the last entry.
    """

    confirmed_spots: int
    waitlist_length: int
    audited_spots: int
