"""The audit trail's chain: the facts that an entry's hash covers, so that every reader can check it.

The hash is SHA-256 over the hash of the entry before (32 zero bytes for the first) followed by a
JSON array in UTF-8 without white space:

    [eventId, number, commandDigest, kind, actor, reason, registrationId, fromStatus, toStatus,
     beforeAfter, spotsDelta, spotsReserved, at]

with `null` where a fact does not apply, `commandDigest` the hexadecimal SHA-256 of the command's 16 bytes
(the id itself is its holder's secret), `beforeAfter` an object with sorted keys, and `at` in UTC
with six decimals and a `Z`. Nothing in it is personal, unless an admin's reason is.
"""

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import msgspec

from shared.domain.event import Change

BEFORE_THE_FIRST = bytes(32)


def chain(previous: bytes, event_id: UUID, number: int, at: datetime, change: Change) -> bytes:
    """Return the 32-byte hash of an entry after an entry with the hash `previous`."""
    facts = [
        event_id,
        number,
        command_digest(change.command_id),
        change.kind,
        change.actor,
        change.reason,
        change.registration_id,
        change.from_status,
        change.to_status,
        change.before_after,
        change.spots_delta,
        change.spots_reserved,
        timestamp(at),
    ]
    return hashlib.sha256(previous + msgspec.json.encode(facts, order="deterministic")).digest()


def command_digest(command_id: UUID | None) -> str | None:
    """Return the digest that names an entry's command and does not give its receipt away."""
    return None if command_id is None else hashlib.sha256(command_id.bytes).hexdigest()


@lru_cache(maxsize=16)  # all entries of a batch have one time
def timestamp(at: datetime) -> str:
    """Return the time as the chain covers it: `2026-11-24T02:31:23.000000Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
