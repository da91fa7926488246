"""Checks the audit trail's chain, and replays it against the tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, Row, text

from ops.maintenance import verification
from shared.domain import audit
from shared.domain.event import Change
from shared.postgres import connections

_ROWS_AT_ONCE = 5_000
_PROBLEMS_MAX = 1_000

_EVENTS = text("""
    SELECT id, slug, audit_seq, spots_reserved FROM event
    WHERE CAST(:names AS text[]) IS NULL OR slug = ANY(:names) OR id::text = ANY(:names)
    ORDER BY slug
""")
_ENTRIES = text("""
    SELECT event_id, number, command_id, kind, actor, reason, registration_id, from_status, to_status,
           before_after, spots_delta, spots_reserved, at, hash
    FROM audit_entry WHERE event_id = :event_id ORDER BY number
""")
_STATUSES = text("SELECT id, status FROM registration WHERE event_id = :event_id ORDER BY id")

_Entry = Row[tuple[object, ...]]


@dataclass(kw_only=True, slots=True)
class AuditedEvent:
    """The audit of one event: the number of entries, and a sentence for each of the first problems."""

    event: str
    entries: int = 0
    problems: list[str] = field(default_factory=list)

    def add_problem(self, problem: str) -> None:
        """Add a problem; after `_PROBLEMS_MAX` of them only that there are more."""
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(problem)
        elif len(self.problems) == _PROBLEMS_MAX:
            self.problems.append("and more")


def check(database_url: str, names: Sequence[str] = ()) -> list[AuditedEvent]:
    """Verify numbers and hashes of these events, or of all; report the first broken entry of each."""
    with _snapshot(database_url) as connection:
        return [_check(connection, event) for event in _events(connection, names)]


def replay(database_url: str, name: str) -> AuditedEvent:
    """Rebuild an event's statuses and counter from its trail alone, and compare them with the tables."""
    with _snapshot(database_url) as connection:
        (event,) = _events(connection, [name])
        return _replay(connection, event)


def _snapshot(database_url: str) -> Connection:
    engine = connections.operator_engine(database_url)
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def _replay(connection: Connection, event: _Entry) -> AuditedEvent:
    audited = AuditedEvent(event=event.slug)
    statuses, counter = _replayed(connection, event.id, audited)
    if counter != event.spots_reserved:
        audited.problems.append(f"the trail ends at {counter} spots; the counter says {event.spots_reserved}")
    streamed = connection.execution_options(yield_per=_ROWS_AT_ONCE)
    for id_, status in streamed.execute(_STATUSES, {"event_id": event.id}):
        replayed = statuses.pop(id_, None)
        if status != replayed:
            audited.add_problem(
                f"registration {id_} is {status}; the trail says {replayed or 'it should not be'}"
            )
    for id_, replayed in sorted(statuses.items()):  # those that the table does not have
        audited.add_problem(f"registration {id_} is not there; the trail says {replayed}")
    return audited


def _events(connection: Connection, names: Sequence[str]) -> list[_Entry]:
    events = connection.execute(_EVENTS, {"names": list(names) or None}).all()
    verification.check_names(names, {name for event in events for name in (event.slug, str(event.id))})
    return list(events)


def _entries(connection: Connection, event_id: UUID) -> Iterator[_Entry]:
    streamed = connection.execution_options(yield_per=_ROWS_AT_ONCE)
    yield from streamed.execute(_ENTRIES, {"event_id": event_id})


def _check(connection: Connection, event: _Entry) -> AuditedEvent:
    audited = AuditedEvent(event=event.slug)
    previous = audit.BEFORE_THE_FIRST
    for number, row in enumerate(_entries(connection, event.id), start=1):
        problem = _broken(row, number, previous)
        if problem is not None:
            audited.problems.append(problem)
            return audited
        audited.entries, previous = number, row.hash
    if audited.entries > event.audit_seq:
        audited.problems.append(f"the event counts {event.audit_seq} of {audited.entries} entries")
    if audited.entries < event.audit_seq:
        audited.problems.append(f"entries {audited.entries + 1} to {event.audit_seq} are missing at the end")
    return audited


def _broken(row: _Entry, number: int, previous: bytes) -> str | None:
    if row.number != number:
        return f"entry {number} is missing"
    change = Change(**{name: getattr(row, name) for name in Change.__struct_fields__})
    if audit.chain(bytes(previous), row.event_id, number, row.at, change) != bytes(row.hash):
        return f"entry {number} is broken: its hash does not follow from it and the entry before"
    return None


def _replayed(connection: Connection, event_id: UUID, audited: AuditedEvent) -> tuple[dict[UUID, str], int]:
    statuses: dict[UUID, str] = {}
    counter = 0
    for row in _entries(connection, event_id):
        audited.entries += 1
        counter += row.spots_delta
        if row.spots_reserved != counter:
            audited.add_problem(
                f"entry {row.number} says {row.spots_reserved} spots; the entries so far give {counter}"
            )
            counter = row.spots_reserved
        if row.registration_id is None:
            continue
        if statuses.get(row.registration_id) != row.from_status:
            audited.add_problem(
                f"entry {row.number} moves {row.registration_id} from {row.from_status}; "
                f"it was {statuses.get(row.registration_id)}"
            )
        if row.to_status is None:
            statuses.pop(row.registration_id, None)
        else:
            statuses[row.registration_id] = row.to_status
    return statuses, counter
