"""Refuses registrations of a sold-out event without a command, as its owner would.

Once an event has refused somebody as full, later registrations first ask the database: one reading
answers for everybody who arrived before it began. It sees the event full and its waitlist closed,
nothing pending that could free a spot, and neither the key nor the address of the one who asks;
anybody else goes through the ledger as always. A spot that was freed before a request arrived is
therefore never denied to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Row, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.together import Together
from shared.domain import commands
from shared.domain.commands import Register
from shared.postgres import arrays

log = structlog.get_logger(__name__)

_TOGETHER_MAX = 1_000
_EVENTS_REMEMBERED_MAX = 10_000

_READING = text("""
    SELECT (opens_at IS NULL OR opens_at <= now()) AND (closes_at IS NULL OR closes_at > now()) AND NOT paused
           AND spots_reserved >= capacity
           AND (NOT waitlist_enabled OR waitlist_length >= waitlist_limit)
           AND NOT EXISTS (SELECT FROM command
                           WHERE event_id = event.id AND settled_at IS NULL AND kind <> 'register')
           AS is_sold_out,
           max_spots_per_registration,
           ARRAY(SELECT encode(idempotency_key, 'hex') FROM command
                 WHERE event_id = event.id AND idempotency_key = ANY(
                     SELECT unnest(CAST(:keys AS bytea[])))) AS known_keys,
           ARRAY(SELECT email_key FROM registration
                 WHERE event_id = event.id AND status <> 'CANCELLED' AND email_key = ANY(
                     SELECT jsonb_array_elements_text(CAST(:email_keys AS jsonb)))) AS known_email_keys
    FROM event WHERE id = :event_id
""")


@dataclass(frozen=True, slots=True)
class _Visitor:
    command: Register
    key: bytes | None


_Reading = Row[tuple[object, ...]]


class SoldOut:
    """The events that were full when somebody last asked."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._suspected: dict[UUID, Together[_Visitor, _Reading | None]] = {}

    def suspect(self, event_id: UUID) -> None:
        """Ask before accepting from now on: the event's owner has just refused somebody as full."""
        if event_id not in self._suspected and len(self._suspected) < _EVENTS_REMEMBERED_MAX:
            self._suspected[event_id] = Together(partial(self._read, event_id), _TOGETHER_MAX)

    async def refuses(self, event_id: UUID, command: Register, key: bytes | None) -> bool:
        """Tell whether the owner would certainly refuse this as `EVENT_FULL`."""
        suspected = self._suspected.get(event_id)
        if suspected is None:
            return False
        visitor = _Visitor(command, key)
        reading = await suspected.ask(visitor)
        if reading is None:
            self._suspected.pop(event_id, None)
            return False
        return _is_certain(visitor, reading)

    async def _read(self, event_id: UUID, visitors: Sequence[_Visitor]) -> Sequence[_Reading | None]:
        """Return for each what the database says of a sold-out event; None when it is not, or cannot tell."""
        parameters = {
            "event_id": event_id,
            "keys": arrays.digests(v.key for v in visitors if v.key is not None),
            "email_keys": arrays.json(
                commands.email_key(v.command.email) for v in visitors if v.command.email is not None
            ),
        }
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(_READING, parameters)).one()
        except (SQLAlchemyError, OSError) as error:
            log.warning("sold_out_not_readable", error=repr(error))
            return [None] * len(visitors)
        return [row if row.is_sold_out else None] * len(visitors)


def _is_certain(visitor: _Visitor, reading: _Reading) -> bool:
    """Tell whether fullness is what the owner would name, and not something that it looks at before."""
    command, key = visitor.command, visitor.key
    return (
        command.spots_count <= reading.max_spots_per_registration
        and (key is None or key.hex() not in reading.known_keys)
        and (command.email is None or commands.email_key(command.email) not in reading.known_email_keys)
    )
