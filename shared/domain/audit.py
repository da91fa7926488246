"""The audit trail's chain: what an entry's hash covers, so that anybody can check it.

The hash is SHA-256 over the hash of the entry before (32 zero bytes for the first) followed by a
JSON array in UTF-8 without white space:

    [eventId, number, commandDigest, kind, actor, reason, registrationId, fromStatus, toStatus,
     beforeAfter, spotsDelta, spotsReserved, at]

with `null` for what does not apply, `commandDigest` the hexadecimal SHA-256 of the command's 16 bytes
(the id itself is its holder's secret), `beforeAfter` an object with sorted keys, and `at` in UTC
with six decimals and a `Z`. Nothing in it is personal, unless an admin's reason is.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

BEFORE_THE_FIRST = bytes(32)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one registration, or of the counter, and who made it."""

    event_id: UUID
    number: int
    command_id: UUID | None
    kind: str
    actor: str
    reason: str | None
    registration_id: UUID | None
    from_status: str | None
    to_status: str | None
    before_after: Mapping[str, Any] | None
    spots_delta: int
    spots_reserved: int
    at: datetime


def chain(previous: bytes, entry: Entry) -> bytes:
    """Return the 32-byte hash of `entry` after the entry whose hash is `previous`."""
    facts = [
        entry.event_id,
        entry.number,
        command_digest(entry.command_id),
        entry.kind,
        entry.actor,
        entry.reason,
        entry.registration_id,
        entry.from_status,
        entry.to_status,
        entry.before_after,
        entry.spots_delta,
        entry.spots_reserved,
        timestamp(entry.at),
    ]
    return hashlib.sha256(previous + msgspec.json.encode(facts, order="deterministic")).digest()


def command_digest(command_id: UUID | None) -> str | None:
    """Return how an entry names its command without giving the receipt away."""
    return None if command_id is None else hashlib.sha256(command_id.bytes).hexdigest()


@lru_cache(maxsize=16)  # all entries of a batch have one time
def timestamp(at: datetime) -> str:
    """Return the time as the chain covers it: `2026-11-24T02:31:23.000000Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
