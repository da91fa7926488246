"""Adopts an existing system: its events and registrations, from tables as Prisma makes them.

1. The source is only read, each event in one snapshot; memory holds one batch of its registrations.
2. An event is adopted in chunks. The transaction of a chunk writes at most `source.BATCH_ROWS`
   registrations in their order, their audit entries, and the counters: rows, counters and trail agree after
   each chunk. The first chunk makes the event closed and paused; the last one opens it. No registration is
   promoted or confirmed.
3. A killed adoption can be run again: it goes on with the next registration, and the result is that of one
   run. An event that was adopted to its end is not changed.
4. The report has each event and registration that was left out or changed, with the reason.
"""

import json
from contextlib import closing
from dataclasses import replace

import psycopg

from ops.adoption import cleaning, links, printing, source
from ops.adoption.cleaning import CleanEvent, CleanRegistration, adopted_id
from ops.adoption.links import AdoptionError
from ops.adoption.printing import Bar
from ops.adoption.report import AdoptedEvent, Code, Fate, Problem, Report
from ops.adoption.source import RawEvent, RawRegistration, Source
from ops.adoption.target import Target, Writing

__all__ = ["AdoptionError", "Report", "adopt", "adopted_id", "command"]


def command(database_url: str, source_url: str, *, dry_run: bool, as_json: bool) -> int:
    """Adopt the source's events and registrations into our database, and print the report.

    Return the exit status: 0 if all were taken, 1 if any were left out. Raises `AdoptionError` if it
    cannot begin or cannot finish; the report of the events so far is printed all the same.
    """
    report = Report(dry_run=dry_run)
    try:
        adopt(database_url, source_url, report)
    finally:
        if report.complete or report.events:
            _print(report, as_json=as_json)
    return 0 if report.all_taken else 1


def adopt(database_url: str, source_url: str, report: Report) -> None:
    """Adopt every event of the source, and add each to `report`."""
    source_link, schema = links.source(source_url)
    with closing(source_link), closing(links.target(database_url)) as target_link, links.database_errors():
        adoption = _Adoption(Source(source_link, schema), Target(target_link), report)
        with printing.bar() as bar:
            adoption.run(bar)


class _Adoption:
    """One run of the adoption."""

    def __init__(self, source: Source, target: Target, report: Report) -> None:
        self._source = source
        self._target = target
        self._report = report

    def run(self, bar: Bar) -> None:
        """Adopt event after event; a dry run in one transaction that is rolled back at the end."""
        bar.expect(self._source.count())
        if not self._report.dry_run:
            self._all(bar)
            return
        with self._target.transaction(undo=True):
            self._all(bar)

    def _all(self, bar: Bar) -> None:
        for source_id in self._source.event_ids():
            with self._source.snapshot():
                raw = self._source.event(source_id)
                if raw is not None:
                    self._event(raw, bar)
        with self._source.snapshot():
            for batch in self._source.registrations_of_no_event():
                self._report.note(_without_event(raw) for raw in batch)
                bar.advance(len(batch))
        self._report.complete = True

    def _event(self, raw: RawEvent, bar: Bar) -> None:
        slug = self._target.adopted_slug(adopted_id(raw.id))
        if slug is not None:
            self._already_adopted(raw, slug, bar)
            return
        event, problems = cleaning.event(raw)
        problems += self._against_slug(raw, event)
        self._report.note(problems)
        if event is None or any(problem.code is Code.SLUG_TAKEN for problem in problems):
            self._leave_out(raw, bar)
            return
        try:
            adopted = self._write(event, bar)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            self._refused(raw, error)
            adopted = _without_numbers(raw, Fate.LEFT_OUT)
        self._report.events.append(adopted)

    def _refused(self, raw: RawEvent, error: psycopg.Error) -> None:
        detail = f"the database refuses it: {links.first_line(error)}"
        begun = self._target.adopted(adopted_id(raw.id))
        if begun > 0:
            detail += f"; its first {begun} registrations are adopted, and it stays closed"
        self._report.note([Problem(code=Code.EVENT_REFUSED, event_id=raw.id, detail=detail)])

    def _already_adopted(self, raw: RawEvent, slug: str, bar: Bar) -> None:
        event = replace(_without_numbers(raw, Fate.ALREADY_ADOPTED), slug=slug)
        source_count = self._source.count_of(raw.id)
        missing = source_count - self._target.adopted(event.id)
        if missing > 0:
            detail = f"{missing} of its registrations are not in the target: left out before, or made since"
            self._report.note([Problem(code=Code.NOT_IN_TARGET, event_id=raw.id, detail=detail)])
        self._report.events.append(event)
        bar.advance(source_count)

    def _leave_out(self, raw: RawEvent, bar: Bar) -> None:
        self._report.events.append(_without_numbers(raw, Fate.LEFT_OUT))
        bar.advance(self._source.count_of(raw.id))

    def _against_slug(self, raw: RawEvent, event: CleanEvent | None) -> list[Problem]:
        """Refuse a slug of another event: of the target's, or for a changed slug also of the source's."""
        if event is None:
            return []
        is_anothers = event.slug != raw.slug and self._source.slug_is_anothers(event.slug, raw.id)
        if not is_anothers and not self._target.slug_is_anothers(event.slug, event.id):
            return []
        detail = f"another event has the slug {event.slug}"
        return [Problem(code=Code.SLUG_TAKEN, event_id=raw.id, detail=detail)]

    def _write(self, event: CleanEvent, bar: Bar) -> AdoptedEvent:
        source_confirmed = 0
        writing = self._target.writing(event)
        with closing(self._source.registrations(event.source_id)) as batches:
            for batch in batches:
                source_confirmed += sum(cleaning.spots_confirmed(raw) for raw in batch)
                with self._target.transaction():
                    writing.lock()
                    writing.add(self._clean(event, batch, writing))
                    if len(batch) < source.BATCH_ROWS:
                        writing.open()
                bar.advance(len(batch))
        drift = None if event.spots_reserved is None else event.spots_reserved - source_confirmed
        return _adopted(event, writing, drift)

    def _clean(
        self, event: CleanEvent, batch: list[RawRegistration], writing: Writing
    ) -> list[CleanRegistration]:
        """Note the problems of a batch, and return what is yet to be written of it."""
        clean = [self._noted(*cleaning.registration(raw)) for raw in batch]
        taken = [registration for registration in clean if registration is not None]
        kept, problems = cleaning.one_holder_each(event.source_id, taken, self._target.held(event.id, taken))
        self._report.note(problems)
        return writing.without_earlier(kept)

    def _noted(
        self, registration: CleanRegistration | None, problems: list[Problem]
    ) -> CleanRegistration | None:
        self._report.note(problems)
        return registration


def _adopted(event: CleanEvent, writing: Writing, drift: int | None) -> AdoptedEvent:
    return AdoptedEvent(
        source_id=event.source_id,
        id=event.id,
        slug=event.slug,
        fate=Fate.ADOPTED,
        registrations=writing.registrations,
        capacity=event.capacity,
        spots_reserved=writing.spots_reserved,
        overbooked_spots=writing.overbooked_spots,
        waitlist_length=writing.waitlist_length,
        drift=drift,
        promotable=writing.promotable,
    )


def _without_numbers(raw: RawEvent, fate: Fate) -> AdoptedEvent:
    return AdoptedEvent(source_id=raw.id, id=adopted_id(raw.id), slug=raw.slug, fate=fate)


def _without_event(raw: RawRegistration) -> Problem:
    return Problem(
        code=Code.REGISTRATION_WITHOUT_EVENT,
        event_id=raw.event_id,
        registration_id=raw.id,
        detail="the source has no such event",
    )


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        printing.show(report)
