"""Refuses registrations of a full event without a command, by the owner's own rules.

Once an event's owner has refused a registration as full, later ones without an idempotency key first ask the
database: one read answers all that arrived before it began. They are refused if the roster refuses them as
of that read and nothing is pending that could free a spot. All others go through the ledger as always, so a
spot that was freed before a request arrived is never denied to it (decision 0021).
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.queries import rosters
from api.queries.batch_loader import BatchLoader
from api.queries.rosters import EventAsRead
from shared.domain.commands import PendingCommand, Register
from shared.domain.outcomes import Refused

log = structlog.get_logger(__name__)

_BATCH_MAX = 1_000
_EVENTS_MAX = 10_000
_NO_ID = UUID(int=0)

_READ = text(f"""
    SELECT {rosters.COLUMN}
    FROM event
    WHERE id = :event_id AND spots_reserved >= capacity
      AND NOT EXISTS (SELECT FROM pending_command AS pending
                      JOIN command ON command.event_id = pending.event_id AND command.id = pending.command_id
                      WHERE pending.event_id = event.id AND command.kind <> 'register')
""")


class FullEvents:
    """The events that were full when their owner last refused a registration.

    `loaders` has a batch loader for each of these events, which answers with the refusal.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.loaders: dict[UUID, BatchLoader[Register, Refused | None]] = {}
        self._engine = engine

    def add(self, event_id: UUID) -> None:
        """Add an event whose owner has just refused a registration as full."""
        if event_id not in self.loaders and len(self.loaders) < _EVENTS_MAX:
            self.loaders[event_id] = BatchLoader(partial(self._read, event_id), _BATCH_MAX)

    async def _read(self, event_id: UUID, batch: Sequence[Register]) -> Sequence[Refused | None]:
        """Return for each command the refusal that the owner would certainly give, or None."""
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(_READ, {"event_id": event_id})).scalar_one_or_none()
        except (SQLAlchemyError, OSError) as error:
            log.warning("full_event_not_readable", error=repr(error))
            row = None
        event = None if row is None else _decoded(event_id, row)
        refusals = [None if event is None else _refusal(event, command) for command in batch]
        if None in refusals:  # the event is not full any more, or cannot be read
            self.loaders.pop(event_id, None)
        return refusals


def _decoded(event_id: UUID, row: str) -> EventAsRead | None:
    """Return the event, or None if a hand-written setting cannot be read."""
    try:
        return rosters.decode(row)
    except msgspec.ValidationError as error:
        log.warning("full_event_not_readable", event_id=str(event_id), error=str(error))
        return None


def _refusal(event: EventAsRead, command: Register) -> Refused | None:
    """Decide the command on a roster that is thrown away; without a free spot it needs no waiting party.

    The roster knows no email addresses: a full event is full whatever the address, and what is not refused
    here goes through the ledger.
    """
    outcome = event.roster().decide(
        PendingCommand(command=command, id=_NO_ID, seq=0, actor="", accepted_at=event.now)
    )
    return outcome if isinstance(outcome, Refused) else None
