"""Identifiers: time-ordered UUIDs (RFC 9562, version 7), made here because PostgreSQL 15 cannot.

The id of an event that was created under a key is a digest (version 8).

A receipt is its command's id, and a secret that allows to cancel: 74 of its bits come from the
operating system's random source, none from a counter that a neighbour's receipt would give away.
"""

import hashlib
import os
import time
import zlib
from uuid import UUID

PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
"""The regular expression of an id, for casts in SQL that must not fail for a text written by hand."""

BUCKETS = 512
"""All workers together hold so many locks of buckets: a twelfth of the smallest lock table of PostgreSQL."""

_RANDOM_BYTES = 10
_VERSION_BITS = 0xF << 76 | 0x3 << 62  # and those of the variant
_VERSION_7 = 0x7 << 76 | 0x2 << 62
_VERSION_8 = 0x8 << 76 | 0x2 << 62


def new_id() -> UUID:
    """Return a fresh id, ordered by the millisecond in which it was made."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(_RANDOM_BYTES), "big")
    return UUID(int=bits & ~_VERSION_BITS | _VERSION_7)


def registration_id(command_id: UUID, purpose: bytes = b"registration") -> UUID:
    """Return the id of the registration that this command makes, in the same millisecond as the command's.

    It follows from the command, so deciding twice names the same registration; it is a one-way
    digest, so that a registration's id does not give the receipt away (decision 0022).
    """
    digest = hashlib.blake2b(command_id.bytes, digest_size=_RANDOM_BYTES, person=purpose).digest()
    bits = command_id.int >> 80 << 80 | int.from_bytes(digest, "big")
    return UUID(int=bits & ~_VERSION_BITS | _VERSION_7)


def follow_up_id(command_id: UUID) -> UUID:
    """Return the id of the command that goes on where this command stopped; likewise a one-way digest."""
    return registration_id(command_id, b"follow-up")


def span(id_: UUID) -> tuple[UUID, UUID]:
    """Return the first and the last id of the millisecond in which this one was made."""
    first = id_.int >> 80 << 80
    return UUID(int=first), UUID(int=first | (1 << 80) - 1)


def event_id(key_digest: bytes) -> UUID:
    """Return the id of the event that is created under this key: at most one event ever comes of a key."""
    bits = int.from_bytes(hashlib.sha256(b"event" + key_digest).digest()[:16], "big")
    return UUID(int=bits & ~_VERSION_BITS | _VERSION_8)


def bucket(event_id: UUID) -> int:
    """Return the bucket of an event, from 0 to `BUCKETS` - 1; it never changes."""
    return zlib.crc32(event_id.bytes) % BUCKETS


def task_id(command_id: UUID) -> str:
    """Return the id under which Celery knows the command's result: a digest of the command's id."""
    digest = hashlib.sha256(b"result" + command_id.bytes).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
