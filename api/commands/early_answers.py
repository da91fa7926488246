"""Answers requests without a command if they change nothing, by the owner's own rules (decision 0021).

The answer is the roster's decision as of a read that began after the request arrived, if nothing was pending
then that could lead to another one. A request with an idempotency key goes through the ledger, except one of
a holder that changes nothing, under a key that is new to the ledger (decision 0084).

A registration of an event that may refuse all of them first asks the database, one read for all that arrived
before it began. A spot that was freed before a request arrived is never denied to it. A process asks until it
has read that the event takes a party, and again from the end of the event's window on, once the owner has
refused one as full, or as closed, paused or not open, or a second after a command of which the request did
not hear the outcome. Events that a process meets share reads, so that many may open at once; one that refused
has reads of its own. A holder's command asks the database in any case.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.queries import rosters, used_keys
from api.queries.rosters import EventAsRead
from api.tasks import BatchLoader
from shared.domain import decisions, outcomes
from shared.domain.commands import HOLDER, HoldersCommand, PendingCommand, Register
from shared.domain.event import Registration
from shared.domain.outcomes import Outcome, RefusalCode, Refused
from shared.postgres import arrays
from shared.postgres.ledger import NewCommand

log = structlog.get_logger(__name__)

_BATCH_MAX = 1_000
_EVENTS_MAX = 10_000
_UNHEARD_SECONDS = 1.0
_NO_ID = UUID(int=0)
_OF_THE_EVENT = {RefusalCode.REGISTRATION_CLOSED, RefusalCode.REGISTRATION_NOT_OPEN, RefusalCode.EVENT_PAUSED}
"""The refusals that every party gets."""

# No registration frees a spot, opens an event or changes another registration.
_READ = f"""
    SELECT {rosters.COLUMN} AS event {{}}
    FROM {{}}
    WHERE (SELECT true FROM pending_command AS pending  -- EXISTS may become a join, which reads them all
           CROSS JOIN LATERAL (  -- a fence (decision 0014)
               SELECT id, kind FROM command
               WHERE event_id = pending.event_id AND id = pending.command_id OFFSET 0
           ) AS command
           WHERE pending.event_id = event.id AND (command.kind <> 'register' {{}})
           LIMIT 1) IS NULL
"""
_READ_EVENTS = text(
    _READ.format(
        ", id",
        """unnest(CAST(:event_ids AS uuid[])) AS asked (event_id)
           CROSS JOIN LATERAL (SELECT * FROM event WHERE id = asked.event_id OFFSET 0) AS event""",
        "",
    )
)
_READ_REGISTRATION = text(
    _READ.format(
        """, (SELECT json_build_object('id', id, 'seq', seq, 'command_id', command_id, 'name', '',
                                       'email', null, 'spots_count', spots_count, 'status', status)::text
              FROM (SELECT * FROM registration WHERE event_id = event.id AND id >= :registration_id
                    ORDER BY id LIMIT 1) AS registration  -- a fence (decision 0014)
              WHERE id = :registration_id) AS registration""",
        "event",
        "OR command.id = :receipt_id",
    )
    + f"AND event.id = :event_id AND NOT {used_keys.IS_USED}"
)
_REGISTRATION = msgspec.json.Decoder(Registration)


async def holders_outcome(
    connection: AsyncConnection, receipt_id: UUID, command: HoldersCommand, new: NewCommand
) -> Outcome | None:
    """Return the outcome that a holder's command would certainly have without any change, or None.

    None as well if the ledger knows the key of `new`, or if the outcome is a refusal and there is a key.
    """
    event_id, keys = new.event_id, used_keys.of(new)
    asked = {
        "event_id": event_id,
        "receipt_id": receipt_id,
        "registration_id": command.registration_id,
        "keys": keys,
    }
    row = (await connection.execute(_READ_REGISTRATION, asked)).one_or_none()
    event = None if row is None else _decoded(event_id, row.event)
    if row is None or event is None:
        return None
    roster = event.roster()
    if row.registration is not None:
        roster.registrations[command.registration_id] = _REGISTRATION.decode(row.registration)
    pending = PendingCommand(command=command, id=_NO_ID, seq=0, actor=HOLDER, accepted_at=event.now)
    outcome = decisions.decide(roster, pending)
    return None if roster.unsaved.changes or (keys and isinstance(outcome, Refused)) else outcome


_Question = tuple[UUID, Register]


class RefusingEvents:
    """The events that may refuse every registration, as far as this process knows: all but those `taking`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._first_reads = self._loader()
        self._loaders: dict[UUID, BatchLoader[_Question, Refused | None]] = {}
        self.taking: set[UUID] = set()
        """The events that take parties."""
        self._unheard: set[UUID] = set()

    async def refusal(self, event_id: UUID, command: Register) -> Refused | None:
        """Return the refusal that the owner would certainly give to a registration, or None."""
        return await self._loaders.get(event_id, self._first_reads).load((event_id, command))

    def note(self, event_id: UUID, refusal: Refused) -> None:
        """Ask again for an event whose owner has refused a registration, if it would refuse all others."""
        if refusal == outcomes.EVENT_FULL or refusal.code in _OF_THE_EVENT:
            self._ask(event_id)

    def note_unheard(self, event_id: UUID) -> None:
        """Ask again a second later for an event that takes parties: its owner may refuse this one unheard."""
        if event_id not in self._unheard:
            self._unheard.add(event_id)
            asyncio.get_running_loop().call_later(_UNHEARD_SECONDS, self._meet_again, event_id)

    def _meet_again(self, event_id: UUID) -> None:
        self._unheard.discard(event_id)
        self.taking.discard(event_id)

    def _ask(self, event_id: UUID) -> None:
        self.taking.discard(event_id)
        if event_id not in self._loaders:
            self._loaders[event_id] = self._loader()

    def _loader(self) -> BatchLoader[_Question, Refused | None]:
        return BatchLoader(self._read, _BATCH_MAX)

    async def _read(self, batch: Sequence[_Question]) -> Sequence[Refused | None]:
        """Return for each command the refusal that the owner would certainly give, or None."""
        asked = {"event_ids": arrays.uuids({event_id for event_id, _ in batch})}
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(_READ_EVENTS, asked)).all()
        except (SQLAlchemyError, OSError) as error:
            log.warning("early_answer_not_readable", error=error)
            rows = []
        read = {row.id: _decoded(row.id, row.event) for row in rows}
        refusals = [
            None if (event := read.get(event_id)) is None else _refusal(event, command)
            for event_id, command in batch
        ]
        # These take parties, or cannot be read.
        taking = {event_id for (event_id, _), refusal in zip(batch, refusals, strict=True) if refusal is None}
        if len(self._loaders) + len(self.taking) >= _EVENTS_MAX:
            self._loaders.clear()
            self.taking.clear()
        for event_id in read.keys() - taking:
            self._ask(event_id)
        for event_id in taking:
            self._loaders.pop(event_id, None)
            self.taking.add(event_id)
            event = read.get(event_id)
            if event is not None and event.settings.closes_at is not None:
                seconds = (event.settings.closes_at - event.now).total_seconds()
                asyncio.get_running_loop().call_later(seconds, self.taking.discard, event_id)
        return refusals


def _decoded(event_id: UUID, row: str) -> EventAsRead | None:
    """Return the event, or None if a hand-written setting cannot be read."""
    try:
        return rosters.decode(row)
    except msgspec.ValidationError as error:
        log.warning("early_answer_not_readable", event_id=str(event_id), error=str(error))
        return None


def _refusal(event: EventAsRead, command: Register) -> Refused | None:
    """Decide the command on a roster that is thrown away.

    The roster knows no email addresses: a closed or full event refuses whatever the address, and what is not
    refused here goes through the ledger.
    """
    pending = PendingCommand(command=command, id=_NO_ID, seq=0, actor="", accepted_at=event.now)
    outcome = decisions.decide(event.roster(), pending)
    return outcome if isinstance(outcome, Refused) else None
