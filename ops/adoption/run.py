"""One run of an adoption: event after event, from the source into the target and the report."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from datetime import datetime
from uuid import UUID

import psycopg
from msgspec.structs import replace

from ops.adoption import cleaning, links
from ops.adoption.cleaning import CleanRegistration, adopted_id
from ops.adoption.event_writer import EventWriter
from ops.adoption.events import CleanEvent, EventReader
from ops.adoption.report import MENDED, AdoptedEvent, Code, Fate, Problem, Report
from ops.adoption.sources import source, values
from ops.adoption.sources.source import RawEvent, RawRegistration, Source
from ops.adoption.target import EventInUse, State, Target

_UNIQUE_LENGTH_MIN = 16
"""The least characters of an id that no other system has by chance: a UUID, a cuid, no number of a table."""


class Adoption:
    """One run of the adoption."""

    def __init__(
        self,
        source: Source,
        target: Target,
        reader: EventReader,
        report: Report,
        update: Callable[..., None],
    ) -> None:
        self._source = source
        self._target = target
        self._mapping = reader.mapping
        self._reader = reader
        self._report = report
        self._update = update
        # A dry run has undone the events before.
        self._slugs: dict[str, str] = {}

    def run(self) -> None:
        """Adopt event after event; a dry run undoes the transaction of each."""
        there: set[UUID] = set()
        for source_id in self._source.event_ids():
            with self._source.snapshot():
                raw = self._source.event(source_id)
                if raw is None:
                    continue
                there.add(adopted_id(raw.id))
                if self._report.dry_run:
                    with self._target.transaction(undo=True):
                        self._event(raw)
                else:
                    self._event(raw)
        with self._source.snapshot():
            for batch in self._source.registrations_of_no_event():
                self._report.note(
                    cleaning.left_out(raw, Code.REGISTRATION_WITHOUT_EVENT, "the source has no such event")
                    for raw in batch
                )
                self._update(advance=len(batch))
        self._report.note(_event_gone(event) for event in self._target.in_use() if event.id not in there)
        self._report.complete = True

    def _event(self, raw: RawEvent) -> None:
        state, there = self._target.state(adopted_id(raw.id))
        if state is State.TAKEN_OVER and there is not None:
            self._taken_over(raw, there[0])
            return
        registrations = self._source.count_of(raw.id) if values.whole(raw.capacity) == 0 else 0
        event, problems = self._reader.clean(raw, registrations, is_there=there is not None)
        if event is not None:
            problems += [*_against_id(event, there), *self._against_slug(raw, event)]
        if event is None or any(problem.code not in MENDED for problem in problems):
            self._leave_out(raw, problems)
            return
        self._report.note(problems)
        self._slugs[event.slug] = raw.id
        try:
            self._report.events.append(self._write(event, state))
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            self._leave_out(raw, [self._refused(raw, error)])

    def _refused(self, raw: RawEvent, error: psycopg.Error) -> Problem:
        detail = f"the database refuses it: {links.first_line(error)}"
        begun = len(self._target.adopted(adopted_id(raw.id)))
        if begun > 0:
            detail += f"; its first {begun} registrations are adopted, and it stays closed"
        return Problem(code=Code.EVENT_REFUSED, event_id=raw.id, detail=detail)

    def _taken_over(self, raw: RawEvent, slug: str) -> None:
        event = _plain(raw.id, slug, Fate.ALREADY_ADOPTED)
        adopted = self._target.adopted(event.id)
        registrations, spots, there = self._sums(raw.id, adopted)
        self._note_gone(raw.id, event.id, adopted - there)
        if registrations:
            detail = "of its registrations are not in the target: left out before, or made since"
            self._report.note([_not_in_target(raw.id, registrations, spots, detail)])
        self._report.events.append(event)

    def _leave_out(self, raw: RawEvent, problems: Sequence[Problem]) -> None:
        """Note the problems; the one that leaves the event out counts its registrations and spots."""
        registrations, spots, _ = self._sums(raw.id, ())
        reason = next(problem for problem in problems if problem.code not in MENDED)
        counted = replace(reason, registrations=registrations, spots=spots)
        self._report.note(counted if problem is reason else problem for problem in problems)
        self._report.events.append(_plain(raw.id, raw.slug, Fate.LEFT_OUT))

    def _against_slug(self, raw: RawEvent, event: CleanEvent) -> list[Problem]:
        """Refuse a slug of another event: of the target's, or for a changed slug also of the source's."""
        is_anothers = (
            self._slugs.get(event.slug, raw.id) != raw.id
            or (event.slug != raw.slug and self._source.slug_is_anothers(event.slug, raw.id))
            or self._target.slug_is_anothers(event.slug, event.id)
        )
        if not is_anothers:
            return []
        detail = f"another event has the slug {event.slug}"
        return [Problem(code=Code.SLUG_TAKEN, event_id=raw.id, detail=detail)]

    def _write(self, event: CleanEvent, state: State) -> AdoptedEvent:
        source_confirmed = 0
        writer = EventWriter(self._target.link, event)
        with closing(self._source.registrations(event.source_id)) as batches:
            for batch in batches:
                source_confirmed += sum(cleaning.spots_confirmed(raw, self._mapping) for raw in batch)
                with self._target.transaction():
                    writer.lock()
                    writer.add(self._clean(event, batch, writer))
                    if len(batch) < source.BATCH_ROWS and not writer.has_gone:
                        writer.finish()
                self._update(advance=len(batch))
        while not writer.finished:
            with self._target.transaction():
                writer.lock()
                writer.remove_gone(source.BATCH_ROWS)
                if not writer.has_gone:
                    writer.finish()
        self._note_gone(event.source_id, event.id, writer.kept)
        self._report.note(
            _registration_gone(event.source_id, *row, "it is removed here") for row in writer.removed
        )
        if writer.left_alone:
            detail = "of its registrations differ in the target, which commands have changed"
            counts = len(writer.left_alone), sum(writer.left_alone)
            self._report.note([_not_in_target(event.source_id, *counts, detail)])
        if not writer.wrote:
            return _plain(event.source_id, event.slug, Fate.ALREADY_ADOPTED)
        drift = None if event.spots_reserved is None else event.spots_reserved - source_confirmed
        return _adopted(event, Fate.UPDATED if state is State.UNCHANGED else Fate.ADOPTED, writer, drift)

    def _clean(
        self, event: CleanEvent, batch: list[RawRegistration], writer: EventWriter
    ) -> list[CleanRegistration]:
        """Note the problems of a batch, and return what can be taken of it."""
        taken = []
        for raw in batch:
            registration, problems = cleaning.registration(raw, self._mapping)
            self._report.note(problems)
            if registration is not None:
                taken.append(registration)
        kept, problems = cleaning.one_holder_each(event.source_id, taken, writer.held(taken))
        self._report.note(problems)
        return kept

    def _note_gone(self, source_id: str, event_id: UUID, ids: Collection[UUID]) -> None:
        """Note those of these registrations, gone from the source, that are active in the target."""
        detail = "it is kept here, as commands have changed the event: cancel or delete it if that is right"
        self._report.note(
            _registration_gone(source_id, *row, detail) for row in self._target.active(event_id, ids)
        )

    def _sums(self, source_id: str, but: Collection[UUID]) -> tuple[int, int, set[UUID]]:
        """Return the number and the spots of an event's registrations that the source has not deleted.

        Those in `but` are not counted; the third value has the ones of them that are there.
        """
        registrations = spots = 0
        there = set()
        with closing(self._source.registrations(source_id)) as batches:
            for batch in batches:
                for raw in batch:
                    if cleaning.status(raw, self._mapping) == "DELETED":
                        continue
                    if (id_ := adopted_id(raw.id)) in but:
                        there.add(id_)
                        continue
                    registrations += 1
                    spots += cleaning.spots_asked(raw)
                self._update(advance=len(batch))
        return registrations, spots, there


def _against_id(event: CleanEvent, there: tuple[str, str, datetime] | None) -> list[Problem]:
    """Refuse an event if the one that is there has its id by chance, as numbers of two systems have.

    The same event has the same slug, or time of creation. Without that time it has the same slug or title.
    """
    if there is None or len(event.source_id) >= _UNIQUE_LENGTH_MIN:
        return []
    slug, title, created_at = there
    created = event.settings.get("created_at")
    same = event.settings["title"] == title if created is None else created == created_at
    if same or event.slug == slug:
        return []
    detail = f"another event was adopted under this id: {slug}"
    if created is None:
        detail += "; if it is the same, adopt it with its slug or title of then first: no time tells it"
    return [Problem(code=Code.ID_TAKEN, event_id=event.source_id, detail=detail)]


def _not_in_target(source_id: str, registrations: int, spots: int, detail: str) -> Problem:
    return Problem(
        code=Code.NOT_IN_TARGET,
        event_id=source_id,
        detail=f"{registrations} {detail}",
        registrations=registrations,
        spots=spots,
    )


def _registration_gone(source_id: str, id_: UUID, spots: int, detail: str) -> Problem:
    return Problem(
        code=Code.REGISTRATION_GONE,
        event_id=source_id,
        registration_id=str(id_),
        detail=detail,
        registrations=1,
        spots=spots,
    )


def _event_gone(event: EventInUse) -> Problem:
    detail = (
        f"{event.slug} was adopted, and the source has it no longer; it is {event.state} here, with "
        f"{event.spots_reserved} spots confirmed and {event.waitlist_length} registrations waiting"
    )
    return Problem(code=Code.EVENT_GONE, event_id=event.source_id or str(event.id), detail=detail)


def _plain(source_id: str, slug: str | None, fate: Fate) -> AdoptedEvent:
    return AdoptedEvent(source_id=source_id, id=adopted_id(source_id), slug=slug, fate=fate)


def _adopted(event: CleanEvent, fate: Fate, writer: EventWriter, drift: int | None) -> AdoptedEvent:
    return replace(
        _plain(event.source_id, event.slug, fate),
        registrations=writer.registrations,
        capacity=event.settings["capacity"],
        spots_reserved=writer.trail.spots_reserved,
        overbooked_spots=writer.trail.overbooked_spots,
        waitlist_length=writer.trail.waitlist_length,
        drift=drift,
        promotable=writer.promotable,
        closed_because=event.closed_because,
    )
