"""What can be answered: every accepted command gets exactly one of these outcomes, for good.

An expected "no" is a `Refused` with a code, never an exception. `Failed` is for what should not
happen: the command could not be decided, changed nothing, and names an incident to look up in the log.
"""

from enum import StrEnum
from typing import Any, TypeAlias
from uuid import UUID

from msgspec import Struct, json


class RefusalCode(StrEnum):
    """Why a command was refused, in order of precedence: the first that applies is the answer."""

    REGISTRATION_CLOSED = "REGISTRATION_CLOSED"
    EVENT_PAUSED = "EVENT_PAUSED"
    TOO_MANY_SPOTS = "TOO_MANY_SPOTS"
    ALREADY_REGISTERED = "ALREADY_REGISTERED"
    EVENT_FULL = "EVENT_FULL"


class Confirmed(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome", tag="confirmed"):
    """The registration holds its spots."""

    registration_id: UUID
    spots_count: int


class Waitlisted(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome", tag="waitlisted"):
    """The registration waits; `position` was its 1-based place when this was decided."""

    registration_id: UUID
    spots_count: int
    position: int


class Refused(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome", tag="refused"):
    """Nothing changed; `code` is for programs, `detail` is a sentence for people."""

    code: RefusalCode
    detail: str


class Failed(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome", tag="failed"):
    """The command could not be decided and changed nothing; the log has the incident."""

    incident_id: UUID


Outcome: TypeAlias = Confirmed | Waitlisted | Refused | Failed

_DECODER: json.Decoder[Outcome] = json.Decoder(Outcome)


def encode(outcome: Outcome) -> bytes:
    """Return the outcome's JSON, as the ledger and the result backend keep it."""
    return json.encode(outcome)


def decode(payload: str | bytes) -> Outcome:
    """Read an outcome back; raises `msgspec.ValidationError` for anything else."""
    return _DECODER.decode(payload)


def schema() -> dict[str, Any]:
    """Return the JSON schema of all outcomes."""
    return json.schema(Outcome)
