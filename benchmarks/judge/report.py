"""Shows a judgement on a terminal."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.judge import figures
from benchmarks.judge.judgement import OTHER, THIS, Comparison, Judgement

WIDTH_WITHOUT_TERMINAL = 100


def show(found: Judgement) -> None:
    """Print the machine, a line for each value of each figure, and the limits of the measurement."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in found.machine.items()))
    console.print(
        f"This version is {found.this}, the other is {found.other}: {found.turns_each} turns each, "
        f"{found.seconds} s a turn, {found.workers} workers. Ratios: this version over the other."
    )
    console.print(_table(found))
    for line in (*_open_loop(found), *_others(found)):
        console.print(line)
    for violation in found.violations:
        console.print(f"VIOLATION: {violation}", style="bold red", markup=False)


def _table(found: Judgement) -> Table:
    table = Table("figure", "value", box=SIMPLE_HEAD, pad_edge=False)
    for column in (THIS, OTHER, "ratio", "quartiles", "pairs won"):
        table.add_column(column, justify="right", no_wrap=True)
    last = ""
    for one in found.comparisons:
        figure = "" if one.figure == last else one.figure
        table.add_row(figure, one.value, f"{one.this:,.1f}", f"{one.other:,.1f}", *_ratio(one))
        last = one.figure
    return table


def _ratio(one: Comparison) -> tuple[str, str, str]:
    ratio = "-" if one.ratio is None else f"{one.ratio:.3f}"
    quartiles = "-" if one.quartiles is None else "{:.3f} to {:.3f}".format(*one.quartiles)
    return ratio, quartiles, f"{one.pairs_won} of {one.pairs}"


def _open_loop(found: Judgement) -> list[str]:
    opened = [turned for turned in found.turns if turned.figure == figures.OPEN]
    if found.open_loop_per_second is None:
        return []
    unsent = {v: sum(t.measured.unsent for t in opened if t.version == v) for v in (THIS, OTHER)}
    errors = {v: sum(t.measured.errors for t in opened if t.version == v) for v in (THIS, OTHER)}
    share = max(turned.measured.generator_core_share for turned in opened)
    late = max(turned.measured.late_p99_ms for turned in opened)
    return [
        f"Open loop: {found.open_loop_per_second:,.0f}/s asked of both.",
        f"Could not be sent: {unsent[THIS]:,} to this version, {unsent[OTHER]:,} to the other.",
        f"Errors: {errors[THIS]:,} and {errors[OTHER]:,}.",
        f"The generator used up to {share:.0%} of a core and sent up to {late:.1f} ms late (p99).",
    ]


def _others(found: Judgement) -> list[str]:
    idle = max(turned.measured.idle_core_share for turned in found.turns)
    others = max(turned.measured.others_share for turned in found.turns)
    return [
        f"The idle version used up to {idle:.1%} of a core, other programs up to {others:.0%} of the machine."
    ]
