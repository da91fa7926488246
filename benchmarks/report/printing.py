"""Shows a report on a terminal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import cpu, plan
from benchmarks.drop import Drop
from benchmarks.report.report import Line, OpenLoop, Report
from ops import progress

WIDTH_WITHOUT_TERMINAL = 120
NOT_MEASURED = "not measured"
_NAMES = {cpu.API: "API", cpu.WORKER: "worker", cpu.POSTGRES: "PostgreSQL", cpu.VALKEY: "Valkey"}


Progressed = Callable[[str], None]
"""A function that is called after each measurement with its name."""


@contextmanager
def progressing(total: int, *, quiet: bool) -> Iterator[Progressed]:
    """Show on a terminal how many of `total` measurements are done."""
    with progress.bar("starting", total, quiet=quiet) as update:
        yield lambda name: update(advance=1, description=name)


def keep(report: msgspec.Struct, file: Path) -> str:
    """Write a report to a file as JSON, and return it."""
    content = msgspec.json.format(msgspec.json.encode(report).decode())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{content}\n", encoding="utf-8")
    return content


def show(report: Report) -> None:
    """Print the machine, a table for each point, and the summary."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    console.print(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    console.print(", ".join(f"{name}={value}" for name, value in report.durability.items()))
    for (connections, rows, events), here in groupby(sorted(report.lines, key=_point), key=_point):
        lines = list(here)
        console.print(
            f"\n{connections:,} connections, {rows:,} registrations, {events:,} events", style="bold"
        )
        console.print(_speed(lines))
        console.print(_cpu(lines))
    for name, rate in report.bulk.items():
        used = ", ".join(f"{group} {us:.0f} µs" for group, us in report.bulk_cpu_us[name].items())
        console.print(f"{name}: {rate:,.0f} registrations/s ({used} CPU each)")
    console.print(_open_loop(report.open_loop))
    if report.drop is not None:
        console.print(_drop(report.drop))
    console.print(_summary(report))
    console.print(f"Other programs used up to {report.others_share_max:.0%} of the machine meanwhile.")
    for violation in report.violations:
        console.print(f"VIOLATION: {violation}", style="bold red", markup=False)


def _point(line: Line) -> tuple[int, int, int]:
    return line.connections, line.rows, line.events


def _speed(lines: Sequence[Line]) -> Table:
    table = _table("per second", "p50 ms", "p95 ms", "p99 ms", "errors", "oversold")
    _add_ratios(table, "rate", "p99")
    for line in lines:
        times = [f"{value:,.1f}" for value in (line.p50_ms, line.p95_ms, line.p99_ms)]
        counted = [f"{line.per_second:,.0f}", *times, str(line.errors), str(line.oversold)]
        table.add_row(line.contestant, *counted, *_ratios(line, "perSecond", "p99Ms"))
    return table


def _cpu(lines: Sequence[Line]) -> Table:
    """Show microseconds of processor time per answer."""
    table = _table(
        *(f"{name} µs" for name in _NAMES.values()), "all µs", "generator µs", "its share", "others"
    )
    _add_ratios(table, "CPU")
    for line in lines:
        each = [line.cpu_us.get(group, 0.0) for group in _NAMES]
        used = [f"{us:,.0f}" for us in (*each, sum(each), line.cpu_us[cpu.GENERATOR])]
        shares = f"{line.generator_share:.0%}", f"{line.others_share:.0%}"
        table.add_row(line.contestant, *used, *shares, *_ratios(line, "cpuUs"))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("contestant", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _add_ratios(table: Table, *names: str) -> None:
    for other in (plan.EMPTY, plan.COUNTER):
        for name in names:
            table.add_column(f"{name} / {other}", justify="right")


def _ratios(line: Line, *figures: str) -> list[str]:
    return [_number(ratios[figure]) for ratios in (line.to_empty, line.to_counter) for figure in figures]


def _open_loop(open_loop: OpenLoop) -> str:
    measured = open_loop.measured
    return (
        f"open loop, {open_loop.asked_per_second:,.0f}/s asked: {measured.per_second:,.0f}/s decided, "
        f"from the intended send p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms, "
        f"max {measured.max_ms:.1f} ms; {measured.errors} errors, {measured.unsent} could not be sent; the "
        f"generator used {open_loop.generator_core_share:.0%} of a core and sent up to "
        f"{measured.late_p99_ms:.1f} ms late (p99)"
    )


def _drop(drop: Drop) -> str:
    memory_used = ", ".join(
        f"{_NAMES[name]} {memory.before:.0f} MB before, {memory.most:.0f} at most, {memory.after:.0f} after"
        for name, memory in drop.memory_mb.items()
    )
    return f"a drop of {drop.registrations:,} registrations at {drop.per_second:,.0f}/s: {memory_used}"


def _summary(report: Report) -> Table:
    table = Table("measure", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("ratio", justify="right")
    for compared in report.summary:
        table.add_row(compared.name, NOT_MEASURED if compared.ratio is None else _number(compared.ratio))
    return table


def _number(value: float | None) -> str:
    """Return the number with three significant digits, which is more than any measurement is exact to."""
    return "-" if value is None else f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"  # noqa: PLR2004
