"""The judgement: for each figure, the comparison of this version with the other one.

Both versions are measured in turns, A B B A …, and a ratio is taken between the two turns of a pair, which
follow each other: another program that slows the machine for a minute slows both. The median of the ratios
counts, and the quartiles show how far it can be trusted.
"""

from collections.abc import Iterator, Sequence
from statistics import median, quantiles

import msgspec

from benchmarks.judge import figures
from benchmarks.judge.figures import Measured

THIS, OTHER = "this", "other"
TURNS_MIN = 9
TURNS_QUICK = 3
_HIGHER_IS_BETTER = frozenset({figures.PER_SECOND})


class Turned(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A figure of one version in one pair of turns."""

    figure: str
    version: str
    pair: int
    measured: Measured


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One value of a figure: the medians of both versions, and the ratios of this one's to the other's.

    `ratio` is the median of the pairs' ratios and `quartiles` are their first and third. They are null where
    there are too few pairs in which the other version's value is not zero. `pairs_won` counts the pairs in
    which this version was the better one.
    """

    figure: str
    value: str
    higher_is_better: bool
    this: float
    other: float
    pairs_won: int
    pairs: int
    ratio: float | None
    quartiles: tuple[float, float] | None


class Judgement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything about one judgement. With any of `violations` its figures are void."""

    machine: dict[str, str]
    this: str
    other: str
    seconds: int
    turns_each: int
    workers: int
    open_loop_per_second: float | None
    comparisons: list[Comparison]
    turns: list[Turned]
    violations: list[str]


def order(turns_each: int) -> Iterator[tuple[int, str]]:
    """Yield pairs of turns by number, the first version of each changing: A B, B A, A B."""
    for pair in range(turns_each):
        for version in (THIS, OTHER) if pair % 2 == 0 else (OTHER, THIS):
            yield pair, version


def compare(turns: Sequence[Turned]) -> list[Comparison]:
    """Compare every value of every figure, in the order in which they were measured."""
    named = dict.fromkeys((turned.figure, value) for turned in turns for value in turned.measured.values)
    return [_comparison(turns, figure, value) for figure, value in named]


def values_of(turns: Sequence[Turned], version: str, figure: str, value: str) -> list[float]:
    """Return one version's value of a figure in each pair of turns."""
    by_pair = {t.pair: t.measured.values[value] for t in turns if (t.figure, t.version) == (figure, version)}
    return [by_pair[pair] for pair in sorted(by_pair)]


def violations(turns: Sequence[Turned]) -> list[str]:
    """Return all violations, each with its figure, version and turn."""
    return [
        f"{turned.figure}, {turned.version} version, turn {turned.pair + 1}: {violation}"
        for turned in turns
        for violation in turned.measured.violations
    ]


def _comparison(turns: Sequence[Turned], figure: str, value: str) -> Comparison:
    this, other = (values_of(turns, version, figure, value) for version in (THIS, OTHER))
    ratios = [upper / lower for upper, lower in zip(this, other, strict=True) if lower]
    higher_is_better = value in _HIGHER_IS_BETTER
    return Comparison(
        figure=figure,
        value=value,
        higher_is_better=higher_is_better,
        this=median(this),
        other=median(other),
        pairs_won=sum(ratio > 1 if higher_is_better else ratio < 1 for ratio in ratios),
        pairs=len(ratios),
        ratio=median(ratios) if ratios else None,
        quartiles=_quartiles(ratios) if len(ratios) > 1 else None,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third
