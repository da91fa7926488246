"""Adopts an existing system: its events and registrations, from the tables that its mapping names.

1. The source is only read, each event in one snapshot; memory holds one batch of its registrations.
2. An event is adopted in chunks. The transaction of a chunk writes at most `source.BATCH_ROWS`
   registrations in their order, their audit entries, and the counters: rows, counters and trail agree after
   each chunk. The event is closed and paused from the first chunk until the last one, which gives it the
   source's settings. No registration is promoted or confirmed.
3. A killed adoption can be run again: it goes on with the next registration, and the result is that of one
   run. An event that no command has changed is brought up to date by a later run; any other is not changed.
4. The report has each column of the source, and each event and registration that was left out or changed,
   with the reason and the spots.
"""

import json
from contextlib import closing
from pathlib import Path

from ops import progress
from ops.adoption import links, printing
from ops.adoption.cleaning import adopted_id
from ops.adoption.events import EventReader
from ops.adoption.links import AdoptionError
from ops.adoption.report import Report
from ops.adoption.run import Adoption
from ops.adoption.sources import mapping
from ops.adoption.sources.source import Source
from ops.adoption.target import Target

__all__ = ["AdoptionError", "Report", "adopt", "adopted_id", "command", "print_mapping"]


def command(  # noqa: PLR0913 - one parameter for each option
    database_url: str,
    source_url: str,
    *,
    dry_run: bool,
    as_json: bool,
    mapping_file: Path | None = None,
    closed: bool = False,
) -> int:
    """Adopt the source's events and registrations into our database, and print the report.

    Return the exit status: 0 if all were taken, 1 if any were left out. Raises `AdoptionError` if it
    cannot begin or cannot finish; the report of the events so far is printed all the same.
    """
    report = Report(dry_run=dry_run)
    try:
        adopt(database_url, source_url, report, mapping_file=mapping_file, closed=closed)
    finally:
        if as_json and (report.complete or report.events):
            print(json.dumps(report.as_json(), indent=2))
        elif report.complete or report.events:
            printing.show(report)
    return 0 if report.all_taken else 1


def print_mapping(source_url: str, mapping_file: Path | None = None) -> None:
    """Print what each column of the source means, as a mapping file; a given one is completed."""
    link, schema = links.source(source_url)
    with closing(link), links.database_errors():
        print(mapping.printed(mapping.of(link, schema, mapping_file)), end="")


def adopt(
    database_url: str,
    source_url: str,
    report: Report,
    *,
    mapping_file: Path | None = None,
    closed: bool = False,
) -> None:
    """Adopt every event of the source, and add each to `report`."""
    source_link, schema = links.source(source_url)
    with closing(source_link), closing(links.target(database_url)) as target_link, links.database_errors():
        target = Target(target_link)
        mapped = mapping.of(source_link, schema, mapping_file)
        mapping.check(mapped)
        report.columns = mapped.reported()
        report.note(mapped.problems())
        reader = EventReader(mapped, target.now(), close_all=closed)
        source = Source(source_link, mapped)
        with progress.bar("registrations", mapped.registration.source_table.rows) as update:
            Adoption(source, target, reader, report, update).run()
