"""The target of an adoption: what of an event is there already, and whether it may still be written."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple
from uuid import UUID

from ops.adoption import links, statements
from ops.adoption.links import AdoptionError, Link
from ops.adoption.trail import ACTOR
from shared.domain import commands
from shared.postgres import locks, tables

_IS_MIGRATED = "SELECT to_regclass('alembic_version') IS NOT NULL"
_REVISION = "SELECT version_num FROM alembic_version"
_LOCK = "SELECT pg_try_advisory_lock(%s)"
# A refused command changed nothing, and a pending one is decided after the adoption's transaction.
_STATE = """
    SELECT event.slug, event.title, event.created_at, adoption.event_id IS NOT NULL AS adopted,
           adoption.finished_at IS NOT NULL AS finished,
           event.paused AND event.closes_at <= now() AS closed,
           EXISTS (SELECT FROM audit_entry WHERE event_id = event.id AND actor <> %(actor)s) AS changed
    FROM event LEFT JOIN adoption ON adoption.event_id = event.id
    WHERE event.id = %(event_id)s
"""
_IN_USE = """
    SELECT event.id, slug, source_id, spots_reserved, waitlist_length,
           CASE WHEN closes_at <= now() THEN 'closed' WHEN paused THEN 'paused' ELSE 'not closed' END AS state
    FROM adoption JOIN event ON event.id = adoption.event_id
    WHERE NOT deleted AND NOT archived ORDER BY event.created_at, event.id
"""
_ACTIVE = """
    SELECT id, spots_count FROM registration
    WHERE event_id = %s AND id = ANY(%s) AND status <> 'CANCELLED' ORDER BY seq
"""
_SLUG_OF_ANOTHER = "SELECT count(*) FROM event WHERE slug = %s AND id <> %s"
# Until then an API process may send commands for the slug to the event that gave it up.
_HOLD_SLUG = """
    SELECT pg_sleep(extract(epoch FROM max(slug_released_at) - clock_timestamp()) + %(seconds)s) FROM event
    WHERE slug_released_at > clock_timestamp() - make_interval(secs => %(seconds)s)
      AND %(slug)s = ANY(former_slugs) AND id <> %(event_id)s
"""


class State(Enum):
    """The state of an event in the target, for an adoption."""

    ABSENT = auto()
    UNFINISHED = auto()
    """Adopted in part, and closed since; a later run goes on with it."""
    UNCHANGED = auto()
    """Adopted to its end, without a change by a command; a later run brings it up to date."""
    TAKEN_OVER = auto()
    """Changed by commands, opened by an admin, or not adopted at all: a later run leaves it alone."""


class EventInUse(NamedTuple):
    """An adopted event of the target; its `source_id` is None if it was adopted before 0013."""

    id: UUID
    slug: str
    source_id: str | None
    spots_reserved: int
    waitlist_length: int
    state: str


class Target:
    """The target database, for one adoption at a time; `AdoptionError` without this version's schema."""

    def __init__(self, link: Link) -> None:
        self.link = link
        is_migrated = links.value(link.execute(_IS_MIGRATED))
        revision = link.execute(_REVISION).fetchone() if is_migrated else None
        if revision is None:
            raise AdoptionError("the target has no schema yet: run `admitone migrate` first")
        if revision[0] != tables.REVISION:
            raise AdoptionError(
                f"the target is at migration {revision[0]}, not {tables.REVISION}: run `admitone migrate`"
            )
        # A worker of an earlier version would promote after an event's end.
        if links.value(link.execute(locks.KNOWN_BY_ALL)) < commands.VERSION:
            raise AdoptionError(
                "a worker of an older version runs, which does not know all settings: replace it"
            )
        if not links.value(link.execute(_LOCK, [locks.ADOPTION])):
            raise AdoptionError("another adoption into the target is running")

    def now(self) -> datetime:
        """Return the time by the target's clock."""
        now: datetime = links.value(self.link.execute("SELECT now()"))
        return now

    def transaction(self, *, undo: bool = False) -> AbstractContextManager[object]:
        """Commit at the end, or with `undo` roll back; an inner transaction is a savepoint of the outer."""
        return self.link.transaction(force_rollback=undo)

    def state(self, id_: UUID) -> tuple[State, tuple[str, str, datetime] | None]:
        """Return the state of an event, and its slug, title and time of creation in the target."""
        row = self.link.execute(_STATE, {"event_id": id_, "actor": ACTOR}).fetchone()
        if row is None:
            return State.ABSENT, None
        slug, title, created_at, adopted, finished, closed, changed = row
        if not adopted or (finished and changed) or not (finished or closed):
            return State.TAKEN_OVER, (slug, title, created_at)
        return State.UNCHANGED if finished else State.UNFINISHED, (slug, title, created_at)

    def slug_is_anothers(self, slug: str, id_: UUID) -> bool:
        """Return True if another event has the slug; wait while one that gave it up is remembered for it."""
        asked = {"slug": slug, "event_id": id_, "seconds": tables.SLUG_HELD_SECONDS}
        self.link.execute(_HOLD_SLUG, asked)
        return bool(links.value(self.link.execute(_SLUG_OF_ANOTHER, [slug, id_])))

    def in_use(self) -> list[EventInUse]:
        """Return the events that were adopted, and are neither archived nor deleted here."""
        return [EventInUse._make(row) for row in self.link.execute(_IN_USE)]

    def active(self, event_id: UUID, ids: Collection[UUID]) -> list[tuple[UUID, int]]:
        """Return those of these registrations of an event that are active, with their spots."""
        return self.link.execute(_ACTIVE, [event_id, list(ids)]).fetchall() if ids else []

    def adopted(self, event_id: UUID) -> set[UUID]:
        """Return the registrations that an event was adopted with."""
        return {id_ for (id_,) in self.link.execute(statements.ADOPTED_IDS, [event_id])}
