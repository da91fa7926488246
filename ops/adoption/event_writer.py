"""Writes an adopted event: its settings and its registrations, chunk by chunk."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import dict_row

from ops.adoption import links, statements
from ops.adoption.cleaning import CleanRegistration
from ops.adoption.events import CleanEvent
from ops.adoption.links import AdoptionError, Link
from ops.adoption.trail import Row, Trail

_WINDOW = ("opens_at", "closes_at", "promote_until", "paused")
"""The settings by which an unfinished event is closed."""


class EventWriter:
    """The writer of one event, a transaction a chunk: each begins with `lock`, and the last one has `finish`.

    The registrations are added in the order of the source. Those that earlier runs wrote are brought up to
    date, unless commands have changed the event since: then they are left alone, and only others are added.
    """

    def __init__(self, link: Link, event: CleanEvent) -> None:
        self._link = link
        self._event = event
        self.trail = Trail(link, event.id)
        self._row: dict[str, Any] = {}
        self._before: Mapping[str, Any] = {}
        self._earlier: set[UUID] = set()
        self._is_changed = False
        self._has_earlier = False
        self._place = 0
        self._replaces = False
        self.wrote = False
        self.finished = False
        self.registrations = 0
        self.promotable = 0
        self.left_alone: list[int] = []
        """The spots of each registration that differs, and that is left alone."""
        self.removed: list[tuple[UUID, int]] = []

    @property
    def kept(self) -> Collection[UUID]:
        """The registrations of earlier runs that the source no longer has, if commands changed the event."""
        return self._earlier if self._is_changed else ()

    @property
    def has_gone(self) -> bool:
        """Earlier runs wrote registrations that the source no longer has; ask this after the last chunk."""
        return bool(self._earlier) and not self._is_changed

    def lock(self) -> None:
        """Insert the event, closed, if it is not there; lock it, and read its counters and its trail's end.

        Raises `AdoptionError` if an unfinished event is no longer closed, or if a finished event was changed
        after this run began to write it.
        """
        event, is_first = self._event, not self._row
        values = {"id": event.id, "created_at": None, **event.settings}
        if is_first and self._link.execute(statements.INSERT_EVENT, values).rowcount:
            self._link.execute(statements.INSERT_ADOPTION, [event.id, event.source_id])
        with self._link.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(statements.LOCK_EVENT, [event.id]).fetchone()
        assert row is not None, "events are never removed"
        if not row["is_finished"] and not row["is_closed"]:
            raise AdoptionError(
                f"the event {event.slug} was opened or changed before it was adopted to its end"
            )
        if is_first:
            self._begin(row)
        elif row["audit_seq"] != self.trail.number:
            self._leave_alone()
        self._row = row
        self.trail.go_on(row)

    def held(self, batch: Sequence[CleanRegistration]) -> set[str]:
        """Return those of the batch's addresses that earlier active registrations of the event have."""
        keys = list({clean.email_key for clean in batch if clean.email_key is not None})
        if not keys:
            return set()
        found = self._link.execute(statements.HELD, [self._event.id, keys, [clean.id for clean in batch]])
        return {key for key, id_ in found if self._is_changed or id_ not in self._earlier}

    def add(self, batch: Sequence[CleanRegistration]) -> None:
        """Write the registrations of the batch that are new or differ, each behind the one before."""
        ids = [clean.id for clean in batch if clean.id in self._earlier]
        rows = self._written(ids)
        if self._is_changed:
            self.left_alone += [
                clean.spots_count for clean in batch if clean.id in rows and rows[clean.id].differs(clean)
            ]
            batch, rows = [clean for clean in batch if clean.id not in self._earlier], {}
        self._earlier.difference_update(ids)
        placed = self._placed(batch, rows)
        writes = [
            (seq, clean, rows.get(clean.id))
            for seq, clean in placed
            if (row := rows.get(clean.id)) is None or row.seq != seq or row.differs(clean)
        ]
        if writes:
            self._write(writes)

    def remove_gone(self, rows_max: int) -> None:
        """Remove registrations that the source no longer has, at most `rows_max`."""
        ids = sorted(self._earlier)[:rows_max]
        self._reopen()
        rows = self._written(ids)
        self._link.execute(statements.DELETE, [self._event.id, ids])
        self.trail.record([self.trail.moved(id_, row, None) for id_, row in rows.items()])
        self.registrations -= len(rows)
        self.removed += [(id_, row.spots_count) for id_, row in rows.items()]
        self._earlier.difference_update(ids)

    def finish(self) -> None:
        """Give the event the source's settings, and count the registrations that will be promoted next."""
        after = self._settings_now()
        if self.wrote or not self._row["is_finished"] or after != {name: self._row[name] for name in after}:
            changed = {
                name: [self._before[name], value]
                for name, value in after.items()
                if name in self._before and self._before[name] != value
            }
            self.wrote = True
            self._set(after)
            if changed:
                self.trail.record([self.trail.changed(changed)])
            self._link.execute(statements.FINISH, [self._event.id])
        self.finished = True
        values = {"event_id": self._event.id}
        ends = after["promote_until"]
        if ends is None or ends > self.trail.at:
            self.promotable = links.value(self._link.execute(statements.PROMOTABLE, values))

    def _begin(self, row: dict[str, Any]) -> None:
        event = self._event
        kept = () if row["is_finished"] else _WINDOW
        self._before = {name: row[name] for name in event.settings if name not in kept}
        self._is_changed = links.value(self._link.execute(statements.IS_CHANGED, [event.id]))
        if self._is_changed and row["is_finished"]:
            raise _changed_meanwhile(event)
        query = statements.ADOPTED_IDS if self._is_changed else statements.IDS
        self._earlier = {id_ for (id_,) in self._link.execute(query, [event.id])}
        self._has_earlier = bool(self._earlier)
        self.registrations = len(self._earlier)

    def _leave_alone(self) -> None:
        """Go on with an event that commands have changed meanwhile, without what they may have changed."""
        if self._row["is_finished"]:
            raise _changed_meanwhile(self._event)
        self._is_changed = True
        self._earlier = {id_ for (id_,) in self._link.execute(statements.ADOPTED_IDS, [self._event.id])}

    def _written(self, ids: Sequence[UUID]) -> dict[UUID, Row]:
        if not ids:
            return {}
        found = map(Row._make, self._link.execute(statements.WRITTEN, [self._event.id, list(ids)]))
        return {row.id: row for row in found}

    def _placed(
        self, batch: Sequence[CleanRegistration], rows: Mapping[UUID, Row]
    ) -> list[tuple[int, CleanRegistration]]:
        """Return a place for each: its own while all are in order, and from the first new one on new ones."""
        kept: list[int] = []
        for clean in batch:
            row = rows.get(clean.id)
            if self._replaces or row is None or row.seq <= self._place:
                self._replaces = True
                break
            kept.append(row.seq)
            self._place = row.seq
        new = self._link.execute(statements.PLACES, [len(batch) - len(kept)])
        return list(zip([*kept, *sorted(seq for (seq,) in new)], batch, strict=True))

    def _write(self, writes: Sequence[tuple[int, CleanRegistration, Row | None]]) -> None:
        self._reopen()
        ids = [clean.id for _, clean, _ in writes]
        if self._has_earlier and not self._is_changed:
            keys = [clean.email_key for _, clean, _ in writes if clean.email_key is not None]
            self._link.execute(statements.DELETE, [self._event.id, ids])
            self._link.execute(statements.FREE_ADDRESSES, [self._event.id, keys, ids])
        with self._link.cursor() as cursor, cursor.copy(statements.COPY_REGISTRATIONS) as copy:
            for seq, clean, row in writes:
                made = clean.created_at or (self.trail.at if row is None else row.created_at)
                holder = clean.name, clean.email, clean.email_key
                place = self._event.id, clean.id, seq
                copy.write_row((*place, *holder, clean.spots_count, clean.status.value, made))
        self.registrations += sum(row is None for *_, row in writes)
        moved = [
            self.trail.moved(clean.id, row, clean)
            for _, clean, row in writes
            if row is None or (row.status, row.spots_count) != (clean.status, clean.spots_count)
        ]
        self.trail.record(moved)

    def _reopen(self) -> None:
        """Close a finished event to the public while it is brought up to date."""
        self.wrote = True
        if self._row["is_finished"]:
            self._link.execute(statements.CLOSE, {"event_id": self._event.id})
            self._row["is_finished"] = False

    def _settings_now(self) -> dict[str, Any]:
        """Return the settings that the event is to have; an earlier moment of closing is kept."""
        after = {
            name: value
            for name, value in self._event.settings.items()
            if name in _WINDOW or not self._is_changed
        }
        closed_at = self._before.get("closes_at", self._row["closes_at"])
        if self._event.closed_now and closed_at is not None and closed_at <= self.trail.at:
            after |= {"closes_at": closed_at, "promote_until": closed_at}
            if after["opens_at"] is not None and after["opens_at"] >= closed_at:
                after["opens_at"] = None
        return after

    def _set(self, settings: Mapping[str, Any]) -> None:
        assignments = [sql.SQL("{} = {}").format(sql.Identifier(n), v) for n, v in settings.items()]
        query = statements.SET.format(
            assignments=sql.SQL(", ").join(assignments),
            capacity=settings.get("capacity", self._row["capacity"]),
            slug=settings.get("slug", self._row["slug"]),
            event_id=self._event.id,
        )
        self._link.execute(query)


def _changed_meanwhile(event: CleanEvent) -> AdoptionError:
    return AdoptionError(
        f"the event {event.slug} was changed while it was brought up to date: run this again"
    )
