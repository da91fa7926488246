"""Shows the report of an adoption to people."""

from rich.console import Console
from rich.table import Column, Table

from ops.adoption.report import GONE, MENDED, AdoptedEvent, Fate, Report
from ops.adoption.sources.meanings import IGNORED, NOT_UNDERSTOOD

PROBLEMS_SHOWN_MAX = 50

_FATES = {
    Fate.ADOPTED: "adopted",
    Fate.UPDATED: "brought up to date",
    Fate.ALREADY_ADOPTED: "already adopted",
    Fate.LEFT_OUT: "left out",
}
_MEANINGS = {NOT_UNDERSTOOD: "not honoured", IGNORED: "no bearing"}


def show(report: Report) -> None:
    """Print the report."""
    console = Console(markup=False, highlight=False)
    console.print(_columns(report))
    console.print(_events(report))
    if report.totals:
        console.print(_problems(report))
    if len(report.problems) > PROBLEMS_SHOWN_MAX:
        console.print(f"The first {PROBLEMS_SHOWN_MAX} are shown; --json lists more.")
    console.print(_sentence(report))


def _columns(report: Report) -> Table:
    table = _table("Columns", "table", "column", "type", "meaning", "rows with a value")
    for column in report.columns:
        filled = f"{column.rows_with_value} of {column.rows}"
        meaning = _MEANINGS.get(column.meaning, column.meaning)
        table.add_row(column.table, column.column, column.type, meaning, filled)
    return table


def _events(report: Report) -> Table:
    headings = "event", "", "taken", "confirmed", "waiting", "over", "drift", "promotable", "closed"
    table = _table("Events", *headings)
    for event in report.events:
        would = "would be " if report.dry_run and event.fate in (Fate.ADOPTED, Fate.UPDATED) else ""
        name = event.slug or event.source_id
        numbers = [] if event.registrations is None else _numbers(event)
        table.add_row(name, would + _FATES[event.fate], *numbers)
    return table


def _numbers(event: AdoptedEvent) -> list[str]:
    return [
        str(event.registrations),
        f"{event.spots_reserved} of {event.capacity}",
        str(event.waitlist_length),
        str(event.overbooked_spots or "-"),
        "-" if event.drift is None else f"{event.drift:+d}" if event.drift else "0",
        str(event.promotable or "-"),
        "; ".join(event.closed_because) or "-",
    ]


def _problems(report: Report) -> Table:
    table = _table("Problems", "problem", "", "event", "registration", "what")
    for problem in report.problems[:PROBLEMS_SHOWN_MAX]:
        taken = "gone from the source" if problem.code in GONE else "taken"
        if problem.code not in MENDED | GONE:
            taken = f"left out: {problem.registrations} registrations, {problem.spots} spots"
        ids = problem.event_id or "-", problem.registration_id or "-"
        table.add_row(problem.code.value, taken, *ids, problem.detail)
    return table


def _table(title: str, *headings: str) -> Table:
    """Return a table that shows names whole, also in a narrow terminal."""
    columns = (Column(heading, overflow="fold") for heading in headings)
    return Table(*columns, title=title, title_justify="left")


def _sentence(report: Report) -> str:
    verb = "would be" if report.dry_run else "were"
    taken = f"{report.fates(Fate.ADOPTED)} events with {report.registrations} registrations {verb} adopted."
    updated = report.fates(Fate.UPDATED)
    if updated:
        taken += f" {updated} events {verb} brought up to date."
    left = report.left_out
    problems = (
        f"Left out: {left.problems}, with {left.registrations} registrations and {left.spots} spots. "
        f"Mended: {report.mended}."
    )
    if report.gone:
        problems += f" Gone from the source since an earlier run: {report.gone}."
    end = "" if report.complete else " The adoption stopped before its end: run it again to go on."
    return f"{taken} {problems}{end}"
