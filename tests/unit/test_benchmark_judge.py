"""How two versions are compared: the order of the turns, the ratios, and what is shown."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.judge import figures, judgement, report, run
from benchmarks.judge.figures import P99, PER_SECOND, Measured
from benchmarks.judge.judgement import OTHER, THIS, Comparison, Judgement, Turned
from benchmarks.processes import BenchmarkError

Rates = list[tuple[float, float]]


def turns_of(rates: Rates, **changes: Any) -> list[Turned]:
    """Return turns in which this version and the other one have these rates."""
    return [
        Turned(
            figure=figures.OPEN,
            version=version,
            pair=pair,
            measured=Measured(
                **{"values": {PER_SECOND: rate, P99: 1_000 / rate}, "violations": [], **changes}
            ),
        )
        for pair, both in enumerate(rates)
        for version, rate in zip((THIS, OTHER), both, strict=True)
    ]


def a_judgement(rates: Rates, **changes: Any) -> Judgement:
    turns = turns_of(rates, **changes)
    return Judgement(
        machine={"cpu": "Any"},
        this="aaaaaaa-dirty",
        other="bbbbbbb",
        seconds=1,
        turns_each=len(rates),
        workers=2,
        open_loop_per_second=700.0,
        comparisons=judgement.compare(turns),
        turns=turns,
        violations=judgement.violations(turns),
    )


def test_the_first_of_a_pair_changes() -> None:
    assert list(judgement.order(3)) == [
        (0, THIS),
        (0, OTHER),
        (1, OTHER),
        (1, THIS),
        (2, THIS),
        (2, OTHER),
    ]


def test_ratios_are_taken_within_pairs() -> None:
    turns = turns_of([(200, 100), (10, 10), (3_000, 1_000), (40, 10), (1, 1)])
    assert judgement.compare(list(reversed(turns)))[0] == Comparison(
        figure=figures.OPEN,
        value=PER_SECOND,
        higher_is_better=True,
        this=40,
        other=10,
        pairs_won=3,
        pairs=5,
        ratio=2,
        quartiles=(1, 3),
    )


def test_a_pair_without_a_value_is_skipped() -> None:
    turns = turns_of([(200, 100), (10, 10)], values={PER_SECOND: 0.0})
    (found,) = judgement.compare(turns)
    assert (found.ratio, found.quartiles) == (None, None)


def test_a_lower_time_wins_the_pair() -> None:
    found = judgement.compare(turns_of([(3, 1), (1, 2), (4, 1), (2, 2)]))
    assert [(one.value, one.pairs_won, one.pairs) for one in found] == [(PER_SECOND, 2, 4), (P99, 2, 4)]


def test_an_open_loop_measures_the_maximum_first() -> None:
    wanted = run.options("HEAD", only="open,drain", turns=None, seconds=None)
    assert wanted.figures == (figures.CLOSED_256, figures.DRAIN, figures.OPEN)
    assert wanted.turns_each == 9


def test_an_open_loop_of_a_given_rate_measures_none() -> None:
    wanted = run.options("HEAD", only="open", turns=None, seconds=None, rate=2_000)
    assert (wanted.figures, wanted.rate) == ((figures.OPEN,), 2_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"only": "closed-2"},
        {"turns": 8},
        {"turns": 1_000},
        {"seconds": 1_000},
        {"quick": True, "turns": -1},
        {"rate": 2_000, "only": "drain"},
        {"variables": ["LIMITS=off"]},
        {"variables": ["ADMITONE_LIMITS"]},
    ],
)
def test_a_senseless_judgement_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchmarkError):
        run.options("HEAD", **{"only": None, "turns": None, "seconds": None, **wrong})


def test_an_unknown_revision_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--against", "no-such-revision", "--output", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("bench: git")
    assert told.count("\n") == 1


def test_a_judgement_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(
        a_judgement(
            [(30, 10), (20, 10), (40, 10)],
            unsent=3,
            generator_core_share=0.25,
            idle_core_share=0.02,
            others_share=0.5,
            violations=["events are oversold [1]"],
        )
    )
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= report.WIDTH_WITHOUT_TERMINAL
    shown = " ".join(shown.split())
    for part in (
        "aaaaaaa-dirty",
        "bbbbbbb",
        "open decided/s 30.0 10.0 3.000 2.500 to 3.500 3 of 3",
        "700/s asked of both",
        "9 to this version, 9 to the other",
        "25% of a core",
        "2.0% of a core, other programs up to 50%",
        "VIOLATION: open, this version, turn 1: events are oversold [1]",
    ):
        assert part in shown
