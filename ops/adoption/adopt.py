"""Adopts an existing system: its events and registrations, from tables as Prisma makes them.

1. The source is only read, each event in one snapshot; memory holds one batch of its registrations.
2. An event is adopted whole or not at all: one transaction writes it, its registrations in their order, its
   counters and the beginning of its audit trail. Nothing promotes or confirms anybody.
3. An event that is here is left as it is, so an adoption that was killed goes on where it was, and one that
   was finished changes nothing.
4. Whatever cannot be taken is in the report with its reason, and so is whatever was taken changed.
"""

import json
from contextlib import closing
from dataclasses import replace

import psycopg

from ops.adoption import cleaning, links, printing
from ops.adoption.cleaning import CleanEvent, CleanRegistration, adopted_id
from ops.adoption.links import AdoptionError
from ops.adoption.printing import Bar
from ops.adoption.report import AdoptedEvent, Code, Fate, Problem, Report
from ops.adoption.source import RawEvent, RawRegistration, Source
from ops.adoption.target import Target, Writing

__all__ = ["AdoptionError", "Report", "adopt", "adopted_id", "command"]


def command(database_url: str, source_url: str, *, dry_run: bool, as_json: bool) -> int:
    """Adopt into our database what the other holds, and print the report.

    Return the exit status: 0 when all was taken, 1 when something was left out. Raises `AdoptionError` when
    it cannot be done, or not to the end; what was done until then is printed all the same.
    """
    report = Report(dry_run=dry_run)
    try:
        adopt(database_url, source_url, report)
    finally:
        if report.complete or report.events:
            _print(report, as_json=as_json)
    return 0 if report.all_taken else 1


def adopt(database_url: str, source_url: str, report: Report) -> None:
    """Adopt every event of the source, and write into `report` what became of it."""
    source_link, schema = links.source(source_url)
    with closing(source_link), closing(links.target(database_url)) as target_link, links.told_in_a_line():
        adoption = _Adoption(Source(source_link, schema), Target(target_link), report)
        with printing.bar() as bar:
            adoption.run(bar)


class _Adoption:
    """One run."""

    def __init__(self, source: Source, target: Target, report: Report) -> None:
        self._source = source
        self._target = target
        self._report = report

    def run(self, bar: Bar) -> None:
        """Adopt event after event; a dry run in one transaction, undone, so that each sees the last."""
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
        slug = self._target.slug(adopted_id(raw.id))
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
            with self._target.transaction():
                adopted = self._write(event, bar)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            detail = f"the database refuses it: {links.first_line(error)}"
            self._report.note([Problem(code=Code.EVENT_REFUSED, event_id=raw.id, detail=detail)])
            adopted = _without_numbers(raw, Fate.LEFT_OUT)
        self._report.events.append(adopted)

    def _already_adopted(self, raw: RawEvent, slug: str, bar: Bar) -> None:
        event = replace(_without_numbers(raw, Fate.ALREADY_ADOPTED), slug=slug)
        there = self._source.count_of(raw.id)
        missing = there - self._target.adopted(event.id)
        if missing > 0:
            detail = f"{missing} of its registrations are not here: left out before, or made since"
            self._report.note([Problem(code=Code.NOT_IN_TARGET, event_id=raw.id, detail=detail)])
        self._report.events.append(event)
        bar.advance(there)

    def _leave_out(self, raw: RawEvent, bar: Bar) -> None:
        self._report.events.append(_without_numbers(raw, Fate.LEFT_OUT))
        bar.advance(self._source.count_of(raw.id))

    def _against_slug(self, raw: RawEvent, event: CleanEvent | None) -> list[Problem]:
        """Refuse a slug that another event has here, and a mended one that another has there by right."""
        if event is None:
            return []
        is_anothers = event.slug != raw.slug and self._source.slug_is_anothers(event.slug, raw.id)
        if not is_anothers and not self._target.has_slug(event.slug):
            return []
        detail = f"another event has the slug {event.slug}"
        return [Problem(code=Code.SLUG_TAKEN, event_id=raw.id, detail=detail)]

    def _write(self, event: CleanEvent, bar: Bar) -> AdoptedEvent:
        confirmed_there = 0
        writing = self._target.begin(event)
        with closing(self._source.registrations(event.source_id)) as batches:
            for batch in batches:
                confirmed_there += sum(cleaning.spots_confirmed(raw) for raw in batch)
                writing.add(self._clean(event, batch))
                bar.advance(len(batch))
        writing.finish()
        drift = None if event.spots_reserved is None else event.spots_reserved - confirmed_there
        return _adopted(event, writing, drift)

    def _clean(self, event: CleanEvent, batch: list[RawRegistration]) -> list[CleanRegistration]:
        clean = [self._noted(*cleaning.registration(raw)) for raw in batch]
        taken = [one for one in clean if one is not None]
        keys = {one.email_key for one in taken if one.email_key is not None}
        kept, problems = cleaning.one_holder_each(event.source_id, taken, self._target.held(event.id, keys))
        self._report.note(problems)
        return kept

    def _noted(self, one: CleanRegistration | None, problems: list[Problem]) -> CleanRegistration | None:
        self._report.note(problems)
        return one


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
        detail="its event is not there",
    )


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        printing.show(report)
