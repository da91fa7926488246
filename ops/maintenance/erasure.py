"""Erases what is personal: finds it, and has the owners of the events erase it by audited commands.

    find registrations and commands ──▶ `Erase` commands ──▶ find again, until nothing is left

A command holds ids, and a keyed digest of the address that was asked for: never the address.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar
from uuid import UUID

import psycopg
from msgspec import UNSET, UnsetType
from psycopg.errors import Diagnostic
from sqlalchemy import Connection, Engine, Row, text

from ops.maintenance import decisions
from ops.maintenance.retention import EVENT_ENDED
from shared import keyed_digests
from shared.domain import ids, texts
from shared.domain.commands import ERASED_AT_ONCE_MAX, Erase
from shared.domain.outcomes import Erased
from shared.errors import ExpectedError
from shared.postgres import connections, durability
from shared.settings import Settings

ACTOR = "operator"
ROUNDS_MAX = 5
_COMMANDS_AT_ONCE = 10
_ROWS_AT_ONCE = 5_000

_Item = TypeVar("_Item")

_EVENT = text("SELECT id FROM event WHERE slug = :name OR id::text = :name")
# A registration's id begins with the time of the command that made it, so its event is found by key.
_EVENT_OF = text("""
    SELECT id FROM event
    WHERE EXISTS (SELECT FROM registration WHERE event_id = event.id AND id = :id)
       OR EXISTS (SELECT FROM command WHERE event_id = event.id AND id BETWEEN :first AND :last)
""")
_ENDED = text(f"""
    SELECT id FROM event
    WHERE {EVENT_ENDED} < now() - make_interval(days => :days)
      AND (CAST(:id AS uuid) IS NULL OR id = :id)
    ORDER BY id
""")
_REGISTRATIONS = text("""
    SELECT event_id, id, email FROM registration
    WHERE (name <> '' OR email IS NOT NULL)
      AND (CAST(:event_id AS uuid) IS NULL OR event_id = :event_id)
      AND (CAST(:registration_id AS uuid) IS NULL OR id = :registration_id)
""")
_ADDRESSED = text("""
    SELECT id, payload ->> 'registrationId' AS registration_id, payload ->> 'email' AS email FROM command
    WHERE payload ? 'email'
      AND (CAST(:event_id AS uuid) IS NULL OR event_id = :event_id)
""")
_COMMANDS = text("""
    SELECT command.event_id, command.id, payload ->> 'registrationId' AS registration_id,
           EXISTS (SELECT FROM pending_command
                   WHERE event_id = command.event_id AND seq = command.seq) AS pending
    FROM command
    WHERE payload <> '{}' AND NOT payload ? 'erased' AND kind <> 'erase'
      AND (CAST(:event_id AS uuid) IS NULL OR command.event_id = :event_id)
""")
# The planner's statistics keep samples of the values.
_ANALYZE = text("ANALYZE registration, command")


class ErasureError(ExpectedError):
    """Nothing can be erased, or not all was; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The personal data of one registration or one address, or all of an event if neither is given."""

    event_id: UUID | None = None
    registration_id: UUID | None = None
    email_key: str | None = None

    @property
    def is_event(self) -> bool:
        """All of an event is meant."""
        return self.email_key is None and self.registration_id is None

    def has(self, email: str | None) -> bool:
        """Return True if this is the address that is meant."""
        return email is not None and texts.email_key(email) == self.email_key


@dataclass(kw_only=True, slots=True)
class Report:
    """The numbers of what was erased, or would be; a `pending` command keeps its payload.

    `samples_stay` is true if the database role may not renew the planner's statistics.
    """

    events: int = 0
    registrations: int = 0
    commands: int = 0
    pending: int = 0
    samples_stay: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """The ids of registrations and of settled commands at one event, and how many commands are pending."""

    registrations: list[UUID]
    commands: list[UUID]
    pending: list[UUID]


def subjects(
    settings: Settings,
    *,
    registration: UUID | None,
    address: str | None,
    ended_days: int | None,
    event: str | None,
) -> list[Subject]:
    """Return what is to be erased, by one of the first three; raises `ErasureError`."""
    with connections.operator_engine(settings.database_url).connect() as connection:
        event_id = None if event is None else connection.execute(_EVENT, {"name": event}).scalar()
        if event is not None and event_id is None:
            raise ErasureError(f"there is no event {event}")
        if ended_days is not None:
            ended = connection.execute(_ENDED, {"days": ended_days, "id": event_id}).scalars()
            return [Subject(event_id=id_) for id_ in ended]
        if registration is not None:
            first, last = ids.span(registration)
            asked = {"id": registration, "first": first, "last": last}
            events = connection.execute(_EVENT_OF, asked).scalars().all()
            if not events:
                raise ErasureError(f"there is no trace of a registration {registration}")
            return [Subject(event_id=id_, registration_id=registration) for id_ in events]
    key = texts.email_key(texts.printable(address or ""))
    if not key:
        raise ErasureError("the address is empty")
    if settings.secret_key is None:
        raise ErasureError("ADMITONE_SECRET_KEY is not set: it makes the digest that stands for the address")
    return [Subject(event_id=event_id, email_key=key)]


def erase(settings: Settings, erased: Sequence[Subject], reason: str | None, *, dry_run: bool) -> Report:
    """Erase these subjects, until nothing is left and that is confirmed; with `dry_run` only count it."""
    report = Report()
    servers: set[str] = set()
    engine = connections.operator_engine(settings.database_url, writes=not dry_run)
    for subject in erased:
        meant = set() if subject.registration_id is None else {subject.registration_id}
        for _ in range(ROUNDS_MAX):
            with engine.connect() as connection:
                servers.add(connection.execute(durability.SERVER).scalar_one())
                found = _find(connection, subject, meant)
            left = {event_id: at for event_id, at in found.items() if at.registrations or at.commands}
            _count(report, left)
            if dry_run or not left:
                break
            _decide(settings, subject, left, reason)
        else:
            raise ErasureError(f"after {ROUNDS_MAX} rounds new data still come in: run it again later")
        report.pending += sum(len(at.pending) for at in found.values())
    if servers and not dry_run:  # an earlier run may have left nothing on this server alone
        decisions.confirm(settings, servers)
    if report.events and not dry_run:
        report.samples_stay = _samples_stay(engine)
    return report


def _samples_stay(engine: Engine) -> bool:
    """Renew the planner's statistics; return True if PostgreSQL warns that this role may not."""
    warnings: list[Diagnostic] = []
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        session = connection.connection.driver_connection
        assert isinstance(session, psycopg.Connection), "the driver is psycopg"
        session.add_notice_handler(warnings.append)
        connection.execute(_ANALYZE)
    return bool(warnings)


def _find(connection: Connection, subject: Subject, meant: set[UUID]) -> dict[UUID, _Found]:
    """Return what is left of a subject, by event; add the registrations that have its address to `meant`.

    These stay: a request that was pending before has the name alone, and no address that would find it now.
    """
    found: dict[UUID, _Found] = {}

    def at(event_id: UUID) -> _Found:
        return found.setdefault(event_id, _Found([], [], []))

    streamed = connection.execution_options(yield_per=_ROWS_AT_ONCE)
    parameters = {"event_id": subject.event_id, "registration_id": subject.registration_id}
    for event_id, id_, email in streamed.execute(_REGISTRATIONS, parameters):
        if subject.email_key is None or subject.has(email):
            at(event_id).registrations.append(id_)
    meant.update(id_ for each in found.values() for id_ in each.registrations)
    if subject.email_key is not None:
        addressed = streamed.execute(_ADDRESSED, {"event_id": subject.event_id})
        meant.update(_registration_of(command) for command in addressed if subject.has(command.email))
    for command in streamed.execute(_COMMANDS, {"event_id": subject.event_id}):
        if subject.is_event or _registration_of(command) in meant:
            each = at(command.event_id)
            (each.pending if command.pending else each.commands).append(command.id)
    return found


def _registration_of(command: Row[tuple[object, ...]]) -> UUID:
    """Return the registration that a command names, or else the one that it would make."""
    named = command.registration_id
    return ids.registration_id(command.id) if named is None else UUID(named)


def _count(report: Report, left: dict[UUID, _Found]) -> None:
    report.events += len(left)
    report.registrations += sum(len(at.registrations) for at in left.values())
    report.commands += sum(len(at.commands) for at in left.values())


def _decide(settings: Settings, subject: Subject, left: dict[UUID, _Found], reason: str | None) -> None:
    asked = [
        (event_id, erase)
        for event_id, at in left.items()
        for erase in _commands(at, _digest(settings, subject), reason)
    ]
    for portion in _portions(asked, _COMMANDS_AT_ONCE):
        outcomes = decisions.decide(settings, portion, ACTOR)
        if not all(isinstance(outcome, Erased) for outcome in outcomes):
            raise ErasureError(f"not all was erased: {outcomes}")


def _digest(settings: Settings, subject: Subject) -> str | UnsetType:
    if subject.email_key is None:
        return UNSET
    return keyed_digests.keyed(settings.secret_keys[0], subject.email_key.encode()).hex()


def _commands(at: _Found, digest: str | UnsetType, reason: str | None) -> Iterator[Erase]:
    """Yield the commands that erase what was found at an event, each of a bounded size."""
    portions = (_portions(part, ERASED_AT_ONCE_MAX) for part in (at.registrations, at.commands))
    for registration_ids, command_ids in zip_longest(*portions, fillvalue=()):
        yield Erase(
            registration_ids=tuple(registration_ids),
            command_ids=tuple(command_ids),
            subject=digest,
            reason=reason or UNSET,
        )


def _portions(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
