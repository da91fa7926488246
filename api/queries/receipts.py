"""Receipts: the state of commands as of now, one read for many, and positions on the waitlist."""

import asyncio
import time
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

import structlog
from msgspec import ValidationError
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.problems import ProblemType
from api.edge.schemas import Receipt, ReceiptStatus, Refusal, RegistrationBrief
from api.queries.reader import Reader
from api.tasks import BatchLoader
from shared.domain import audit, ids, outcomes
from shared.domain.commands import Status
from shared.domain.outcomes import (
    Confirmed,
    CounterHealed,
    Erased,
    EventChanged,
    Failed,
    Outcome,
    ReceiptGiven,
    Refused,
    RegistrationCorrected,
    RegistrationDeleted,
    StatusChanged,
    Waitlisted,
    WaitlistPromoted,
)
from shared.postgres import arrays, durability
from shared.postgres.durability import NotConfirmed

log = structlog.get_logger(__name__)

_BATCH_MAX = 500
_EVENTS_REMEMBERED_MAX = 100
_COUNTING_SHARE = 0.05
"""The most of the time that counting one line may take; a place in it is as old as that allows."""

_RECEIPTS = text(f"""
    SELECT asked.event_id, asked.id AS receipt_id, command.seq AS place,
           outcome.body::text AS outcome, registration.id,
           registration.status, registration.spots_count, registration.seq,
           registration.command_id AS newest_receipt_id, event.audit_seq,
           {durability.TO_CONFIRM.format("outcome")} AS of_outcome,
           {durability.TO_CONFIRM.format("registration")} AS of_registration,
           {durability.TO_CONFIRM.format("event")} AS of_event
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:ids AS uuid[])) AS asked (event_id, id)
    -- Fences (decision 0014): OFFSET 0, and below an order that only the primary key has.
    JOIN LATERAL (
        SELECT seq FROM command WHERE event_id = asked.event_id AND id = asked.id OFFSET 0
    ) AS command ON true
    JOIN LATERAL (SELECT xmin, audit_seq FROM event WHERE id = asked.event_id OFFSET 0) AS event ON true
    LEFT JOIN LATERAL (
        SELECT xmin, body FROM outcome
        WHERE event_id = asked.event_id AND command_id = asked.id OFFSET 0
    ) AS outcome ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN outcome.body ->> 'registrationId' ~ '{ids.PATTERN}'
                    THEN CAST(outcome.body ->> 'registrationId' AS uuid) END AS id
    ) AS made
    LEFT JOIN LATERAL (
        SELECT xmin, * FROM registration
        WHERE event_id = asked.event_id AND id >= made.id ORDER BY id LIMIT 1
    ) AS registration ON registration.id = made.id
""")

_WAITLISTS = text("""
    SELECT event_id, line.seqs FROM unnest(CAST(:event_ids AS uuid[])) AS asked (event_id)
    CROSS JOIN LATERAL (
        SELECT array_agg(seq ORDER BY seq) AS seqs FROM registration
        WHERE event_id = asked.event_id AND status = 'WAITLIST'
    ) AS line
""")
_BACKLOGS = text("""
    SELECT event_id, line.seqs FROM unnest(CAST(:event_ids AS uuid[])) AS asked (event_id)
    CROSS JOIN LATERAL (
        SELECT array_agg(seq ORDER BY seq) AS seqs FROM pending_command WHERE event_id = asked.event_id
    ) AS line
""")

Confirm = Callable[[Iterable[str | None], float], Awaitable[None]]
"""Has rows confirmed until a time of the event loop; raises `NotConfirmed`."""
_ReceiptRow = Row[tuple[object, ...]]
_Question = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True)
class _Line:
    """The numbers of those that wait at an event, as of a count of several lines.

    `version` is the number of the event's last audit entry, or None where no number tells of a change.
    """

    version: int | None
    seqs: "array[int]"
    counted_at: float
    counting_seconds: float


class _Lines:
    """The lines of events; counting long ones takes long, so they are counted again only now and then."""

    def __init__(self, statement: TextClause) -> None:
        self._statement = statement
        self._of_events: dict[UUID, _Line] = {}

    async def read(self, connection: AsyncConnection, versions: Mapping[UUID, int | None]) -> None:
        """Count the lines of these events, with their versions as of now, in one statement."""
        due = [event_id for event_id, version in versions.items() if self._is_due(event_id, version)]
        if not due:
            return
        if len(self._of_events) >= _EVENTS_REMEMBERED_MAX:
            self._of_events = {id_: line for id_, line in self._of_events.items() if id_ in versions}
        began = time.monotonic()
        counted = await connection.execute(self._statement, {"event_ids": arrays.uuids(due)})
        ended = time.monotonic()
        for event_id, seqs in counted:
            line = _Line(versions[event_id], array("q", seqs or ()), ended, ended - began)
            self._of_events[event_id] = line

    def ahead(self, event_id: UUID, seq: int) -> int:
        """Return how many have a lower number in the line of an event that was read."""
        return bisect_left(self._of_events[event_id].seqs, seq)

    def _is_due(self, event_id: UUID, version: int | None) -> bool:
        line = self._of_events.get(event_id)
        if line is None:
            return True
        has_changed = version is None or line.version != version
        return has_changed and time.monotonic() - line.counted_at > line.counting_seconds / _COUNTING_SHARE


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a read: the receipt, None if it is none; `readable` is false for a bad outcome.

    `held` is the id of the registration that the receipt's holder may change, or could before its deletion.
    `to_confirm` names the rows that are to be confirmed before the receipt is told (see `durability`);
    `audit_seq` is the number of the event's last audit entry, as of the read.
    """

    receipt: Receipt | None
    readable: bool = True
    held: UUID | None = None
    audit_seq: int = 0
    to_confirm: tuple[str | None, ...] = ()


class Receipts:
    """Reads receipts from the ledger."""

    def __init__(self, reader: Reader, confirm: Confirm) -> None:
        self._reader = reader
        self._confirm = confirm
        self._loader: BatchLoader[_Question, Found] = BatchLoader(self._read, _BATCH_MAX)
        self._waitlists = _Lines(_WAITLISTS)
        self._backlogs = _Lines(_BACKLOGS)

    async def find(self, event_id: UUID, receipt_id: UUID, by: float) -> Found:
        """Return the state of a command; without a receipt for an id that is none here, or no longer.

        A registration is shown as it is now, not as it was decided. At the time `by` of the event loop it
        raises `TimeoutError`, or the problem `ANSWER_UNAVAILABLE` if the state was read and could not be
        confirmed; the same problem for an outcome that this version cannot read.
        """
        async with asyncio.timeout_at(by):
            answer = await self._loader.load((event_id, receipt_id))
        if not answer.readable:
            raise ProblemType.ANSWER_UNAVAILABLE.error(receipt_id=receipt_id)
        try:
            await self._confirm(answer.to_confirm, by)
        except NotConfirmed as error:
            raise ProblemType.ANSWER_UNAVAILABLE.error(receipt_id=receipt_id) from error
        return answer

    async def held(self, event_id: UUID, receipt_id: UUID) -> UUID | None:
        """Return the registration that a receipt's holder may change; None if the receipt is none.

        A receipt that gives no right over any registration has the id of a registration that does not exist.
        """
        answer = await self._loader.load((event_id, receipt_id))
        if answer.receipt is None and answer.readable:
            return None
        return answer.held or ids.registration_id(receipt_id)

    async def ahead(self, event_id: UUID, receipt_id: UUID) -> int:
        """Return the number of pending commands before this one as last counted, 0 if it is settled."""
        receipt = (await self._loader.load((event_id, receipt_id))).receipt
        return 0 if receipt is None else receipt.ahead or 0

    async def _read(self, questions: Sequence[_Question]) -> list[Found]:
        # No snapshot, which costs two more round trips: a line that is counted after its receipts is newer.
        return await self._reader.read(lambda connection: self._receipts(connection, questions))

    async def _receipts(self, connection: AsyncConnection, questions: Sequence[_Question]) -> list[Found]:
        parameters = {
            "event_ids": arrays.uuids(event_id for event_id, _ in questions),
            "ids": arrays.uuids(receipt_id for _, receipt_id in questions),
        }
        rows = {
            (row.event_id, row.receipt_id): row for row in await connection.execute(_RECEIPTS, parameters)
        }
        pending = {row.event_id: None for row in rows.values() if row.outcome is None}
        await self._backlogs.read(connection, pending)
        waiting = {row.event_id: row.audit_seq for row in rows.values() if row.status == Status.WAITLIST}
        await self._waitlists.read(connection, waiting)
        return [self._found(rows.get(question)) for question in questions]

    def _found(self, row: _ReceiptRow | None) -> Found:
        if row is None:
            return Found(None)
        if row.outcome is None:
            return Found(
                Receipt(
                    receipt_id=row.receipt_id,
                    task_id=ids.task_id(row.receipt_id),
                    status=ReceiptStatus.PENDING,
                    ahead=self._backlogs.ahead(row.event_id, row.place),
                )
            )
        try:
            outcome = outcomes.decode(row.outcome)
        except ValidationError as error:  # an outcome that cannot be read must not hide the others
            log.warning(
                "outcome_unreadable", command_digest=audit.command_digest(row.receipt_id), error=str(error)
            )
            return Found(None, readable=False)
        # Also of a registration that is deleted: a keyed command about it is found again.
        held = outcome.registration_id if isinstance(outcome, Confirmed | Waitlisted | ReceiptGiven) else None
        if held is not None and row.id is not None and row.newest_receipt_id != row.receipt_id:
            return Found(None)  # the holder has a newer one
        to_confirm = row.of_outcome, row.of_event if row.id is None else row.of_registration
        receipt = self._of(row, outcome)
        return Found(receipt, held=held, to_confirm=to_confirm, audit_seq=row.audit_seq)

    def _of(self, row: _ReceiptRow, outcome: Outcome) -> Receipt:
        registration: RegistrationBrief | None = None
        refusal: Refusal | None = None
        incident_id: UUID | None = None
        match outcome:
            case Refused(code=code, detail=detail):
                status, refusal = ReceiptStatus.REFUSED, Refusal(code=code, detail=detail)
            case Failed(incident_id=incident_id):
                status = ReceiptStatus.FAILED
            case Erased() | EventChanged() | CounterHealed() | WaitlistPromoted():
                status = ReceiptStatus.APPLIED
            case RegistrationDeleted():
                status = ReceiptStatus.DELETED
            case Confirmed() | Waitlisted() | StatusChanged() | RegistrationCorrected() | ReceiptGiven():
                status = ReceiptStatus.DELETED
                if row.id is not None:
                    status, waits = ReceiptStatus(row.status), row.status == Status.WAITLIST
                    registration = RegistrationBrief(
                        id=row.id,
                        status=Status(row.status),
                        spots_count=row.spots_count,
                        waitlist_position=self._waitlists.ahead(row.event_id, row.seq) + 1 if waits else None,
                    )
            case _:
                assert_never(outcome)
        return Receipt(
            receipt_id=row.receipt_id,
            task_id=ids.task_id(row.receipt_id),
            status=status,
            registration=registration,
            refusal=refusal,
            incident_id=incident_id,
        )
