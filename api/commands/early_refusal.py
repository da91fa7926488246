"""Refuses registrations of a full event without a command, by the owner's own rules.

Once an event's owner has refused a registration as full, later ones without an idempotency key first ask the
database: one read answers all that arrived before it began. They are refused if the roster refuses them as
of that read and nothing is pending that could free a spot. All others go through the ledger as always, so a
spot that was freed before a request arrived is never denied to it (decision 0021).
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.queries.batch_loader import BatchLoader
from shared.domain import texts
from shared.domain.commands import PendingCommand, Register
from shared.domain.event import EventSettings
from shared.domain.outcomes import Refused
from shared.domain.promotion import Waitlist
from shared.domain.roster import Roster
from shared.postgres import arrays

log = structlog.get_logger(__name__)

_BATCH_MAX = 1_000
_EVENTS_MAX = 10_000
_NO_ID = UUID(int=0)

_SETTINGS = ", ".join(
    f"'{name}', {column}"
    for column, name in zip(
        EventSettings.__struct_fields__, EventSettings.__struct_encode_fields__, strict=True
    )
)
_READ = text(f"""
    SELECT json_build_object(
        'now', now(), 'spotsReserved', spots_reserved, 'waitlistLength', waitlist_length,
        'oversized', (
            SELECT count(*) FROM (
                SELECT FROM registration
                WHERE event_id = event.id AND status = 'WAITLIST' AND spots_count > capacity AND capacity > 0
                LIMIT greatest(coalesce(waitlist_length - waitlist_limit + 1, 0), 0)
            ) AS large
        ),
        'settings', json_build_object({_SETTINGS}),
        'holders', ARRAY(
            SELECT email_key FROM registration
            WHERE event_id = event.id AND status <> 'CANCELLED'
              AND email_key = ANY(CAST(:email_keys AS text[]))
        )
    )::text
    FROM event
    WHERE id = :event_id AND spots_reserved >= capacity
      AND NOT EXISTS (SELECT FROM pending_command AS pending
                      JOIN command ON command.event_id = pending.event_id AND command.id = pending.command_id
                      WHERE pending.event_id = event.id AND command.kind <> 'register')
""")


class _FullEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event without a free spot, on the database's clock; `holders` have the email keys of the read.

    `oversized` counts the oversized parties on its waitlist, as far as the waitlist's limit depends on them.
    """

    now: datetime
    spots_reserved: int
    waitlist_length: int
    oversized: int
    settings: EventSettings
    holders: list[str]


_DECODER = msgspec.json.Decoder(_FullEvent)


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
        keys = [texts.email_key(command.email) for command in batch if command.email is not None]
        parameters = {"event_id": event_id, "email_keys": arrays.texts(keys)}
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(_READ, parameters)).scalar_one_or_none()
        except (SQLAlchemyError, OSError) as error:
            log.warning("full_event_not_readable", error=repr(error))
            row = None
        event = None if row is None else _decoded(event_id, row)
        refusals = [None if event is None else _refusal(event, command) for command in batch]
        if None in refusals:  # the event is not full any more, or cannot be read
            self.loaders.pop(event_id, None)
        return refusals


def _decoded(event_id: UUID, row: str) -> _FullEvent | None:
    """Return the event, or None if a hand-written setting cannot be read."""
    try:
        return _DECODER.decode(row)
    except msgspec.ValidationError as error:
        log.warning("full_event_not_readable", event_id=str(event_id), error=str(error))
        return None


def _refusal(event: _FullEvent, command: Register) -> Refused | None:
    """Decide the command on a roster that is thrown away; without a free spot it needs no waiting party."""
    roster = Roster(
        settings=event.settings,
        spots_reserved=event.spots_reserved,
        waitlist=Waitlist.of((), event.waitlist_length, {event.settings.capacity + 1: event.oversized}),
        registrations={},
        holders=dict.fromkeys(event.holders, _NO_ID),
    )
    outcome = roster.decide(
        PendingCommand(command=command, id=_NO_ID, seq=0, actor="", accepted_at=event.now)
    )
    return outcome if isinstance(outcome, Refused) else None
