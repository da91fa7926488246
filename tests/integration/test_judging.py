"""Two versions that run side by side: that a judgement measures everything and finds what is wrong."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks import measure, receipts
from benchmarks.judge import checkouts, figures, run
from benchmarks.judge.judgement import THIS
from benchmarks.judge.version import Version
from ops.stack.programs import CHECKOUT
from tests.stage import Json

Both = tuple[dict[str, Version], dict[str, str]]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """Two runs of this version: installing another one needs a package index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkouts, "export", lambda _commit, _folder: CHECKOUT)
        with run.running("any", {}) as running:
            yield running


@pytest.fixture
def judge(
    both: Both, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Json]:
    """A function that judges in one turn each with these options, and returns the report."""

    @contextmanager
    def running(_commit: str, _variables: Mapping[str, str]) -> Iterator[Both]:
        yield both

    monkeypatch.setattr(run, "running", running)
    monkeypatch.setattr(checkouts, "described", lambda: "this-commit")
    monkeypatch.setattr(checkouts, "commit_of", str)
    monkeypatch.setattr(figures, "DRAIN_COMMANDS", 100)

    def judged(**options: Any) -> Json:
        wanted = run.options("REV", quick=True, turns=1, seconds=None, **options)
        status = run.command(wanted, as_json=True, output=tmp_path)
        told: Json = json.loads(capsys.readouterr().out)
        assert (status, told["violations"]) == (0, [])
        assert json.loads((tmp_path / run.REPORT_FILE).read_text()) == told
        return told

    return judged


def measured(told: Json) -> list[tuple[str, str]]:
    return [(one["figure"], one["version"]) for one in told["turns"]]


def test_a_judgement_measures_both_versions(judge: Callable[..., Json]) -> None:
    told = judge(only="drain,open")
    assert (told["this"], told["other"], told["turnsEach"]) == ("this-commit", "REV", 1)
    assert measured(told) == [
        (figure, version) for figure in ("closed-256", "drain", "open") for version in ("this", "other")
    ]
    assert all(one["ratio"] for one in told["comparisons"] if "CPU" not in one["value"])


def test_an_open_loop_has_a_fixed_rate(judge: Callable[..., Json]) -> None:
    told = judge(only="open", rate=50)
    assert measured(told) == [("open", "this"), ("open", "other")]
    assert told["openLoopPerSecond"] == 50


@pytest.mark.parametrize(
    ("wrong", "violation"),
    [
        ("UPDATE event SET spots_reserved = 2", "counters differ from their rows (1)"),
        ("UPDATE event SET overbooked_spots = 1, spots_reserved = 501", "events are oversold (1)"),
        ("INSERT INTO pending_command SELECT event_id, seq, id FROM command", "commands are pending (1)"),
        ("DELETE FROM registration", "answered registrations are missing (1)"),
    ],
)
def test_a_planted_fault_is_found(both: Both, wrong: str, violation: str) -> None:
    version = both[0][THIS]
    with version.events(1) as made:
        uvloop.run(receipts.probe(measure.registrations(version.url, made.values(), connections=1)))
        assert version.violations(made, answered=1) == []
        version.database.execute("BEGIN")  # rolled back, so that no worker sees any of it
        try:
            version.database.execute(wrong.encode())
            found = version.violations(made, answered=1)
        finally:
            version.database.execute("ROLLBACK")
    assert violation in found
