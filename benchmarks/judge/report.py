"""Shows a judgement on a terminal."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.judge import figures
from benchmarks.judge.judgement import OTHER, THIS, Comparison, Judgement

WIDTH_WITHOUT_TERMINAL = 100


def show(judgement: Judgement) -> None:
    """Print the machine, a line for each value of each figure, and the limits of the measurement."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in judgement.machine.items()))
    console.print(
        f"This version is {judgement.this}, the other is {judgement.other}: "
        f"{judgement.turns_each} turns each, {judgement.seconds} s a turn, {judgement.workers} workers. "
        "Ratios: this version over the other."
    )
    console.print(_table(judgement))
    for line in (*_open_loop(judgement), *_others(judgement)):
        console.print(line)
    for violation in judgement.violations:
        console.print(f"VIOLATION: {violation}", style="bold red", markup=False)


def _table(judgement: Judgement) -> Table:
    table = Table("figure", "value", box=SIMPLE_HEAD, pad_edge=False)
    for column in (THIS, OTHER, "ratio", "quartiles", "pairs won"):
        table.add_column(column, justify="right", no_wrap=True)
    last = ""
    for comparison in judgement.comparisons:
        figure = "" if comparison.figure == last else comparison.figure
        table.add_row(
            figure,
            comparison.value,
            f"{comparison.this:,.1f}",
            f"{comparison.other:,.1f}",
            *_ratio(comparison),
        )
        last = comparison.figure
    return table


def _ratio(comparison: Comparison) -> tuple[str, str, str]:
    ratio = "-" if comparison.ratio is None else f"{comparison.ratio:.3f}"
    quartiles = "-" if comparison.quartiles is None else "{:.3f} to {:.3f}".format(*comparison.quartiles)
    return ratio, quartiles, f"{comparison.pairs_won} of {comparison.pairs}"


def _open_loop(judgement: Judgement) -> list[str]:
    opened = [turned for turned in judgement.turns if turned.figure == figures.OPEN]
    if judgement.open_loop_per_second is None:
        return []
    unsent = {v: sum(t.measured.unsent for t in opened if t.version == v) for v in (THIS, OTHER)}
    errors = {v: sum(t.measured.errors for t in opened if t.version == v) for v in (THIS, OTHER)}
    share = max(turned.measured.generator_core_share for turned in opened)
    late = max(turned.measured.late_p99_ms for turned in opened)
    return [
        f"Open loop: {judgement.open_loop_per_second:,.0f}/s asked of both.",
        f"Could not be sent: {unsent[THIS]:,} to this version, {unsent[OTHER]:,} to the other.",
        f"Errors: {errors[THIS]:,} and {errors[OTHER]:,}.",
        f"The generator used up to {share:.0%} of a core and sent up to {late:.1f} ms late (p99).",
    ]


def _others(judgement: Judgement) -> list[str]:
    idle = max(turned.measured.idle_core_share for turned in judgement.turns)
    others = max(turned.measured.others_share for turned in judgement.turns)
    return [
        f"The idle version used up to {idle:.1%} of a core, other programs up to {others:.0%} of the machine."
    ]
