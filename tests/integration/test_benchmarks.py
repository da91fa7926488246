"""The benchmark on real servers: that it measures everything and finds what is wrong, never how fast."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from benchmarks import arena as arenas
from benchmarks import bulk, checking, day, drop, measure, plan, preload, run, ticks
from benchmarks.__main__ import main
from benchmarks.arena import Arena
from benchmarks.plan import Plan
from ops.rehearsal import http_client
from shared.domain import ids
from shared.settings import Settings

ROWS = 20


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """Everything that is measured, running."""
    with arenas.opened(workers=1) as opened:
        yield opened


def few_rows(asked: Plan) -> Plan:
    return replace(asked, drain_rows=1_000, rounds=1)


@pytest.mark.timeout(180)
def test_a_run_measures_everything_and_finds_every_answer_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "QUICK", few_rows(plan.QUICK))
    monkeypatch.setattr(drop, "SECONDS_PER_LOAD", 1)
    output = tmp_path / "kept"
    wanted = plan.plan(quick=True, connections="4", rows=str(ROWS), events="2", seconds=1, drop=100)
    status = run.command(wanted, as_json=True, output=output)
    told = json.loads(capsys.readouterr().out)
    assert (status, told["violations"]) == (0, [])
    assert [line["contestant"] for line in told["lines"]] == [*plan.BASELINES, *plan.SERVICE]
    assert all(line["perSecond"] > 0 and line["errors"] == 0 for line in told["lines"])
    assert {line["contestant"]: line["oversold"] for line in told["lines"]}[plan.DECIDED] == 0
    assert all(line["toEmpty"]["perSecond"] and line["toCounter"]["cpuUs"] for line in told["lines"])
    assert told["durability"] == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    assert set(told["bulk"]) == set(bulk.RUNS)
    assert set(told["drop"]["memoryMb"]) == {"api", "worker"}
    assert told["drop"]["registrations"] >= 100
    assert told["openLoop"]["measured"]["answers"] > 0
    measured = {one["name"] for one in told["summary"] if one["ratio"] is not None}
    assert {"decided/s over empty", "decided/s over lock", "drain over limit"} <= measured
    assert json.loads((output / run.REPORT_FILE).read_text()) == told
    assert (output / run.PICTURE_FILE).read_text().startswith("<svg")


def test_a_plan_that_makes_no_sense_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--connections", "many", "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "bench: 'many' is not a list of numbers, such as 1,16,64\n"


def test_preloaded_registrations_equal_those_that_came(arena: Arena) -> None:
    events = preload.service(arena, events=2, rows=ROWS)
    assert len(events) == 2
    assert int(arena.scalar("SELECT count(*) FROM registration")) == ROWS
    assert checking.service(arena, preloaded=ROWS, answered=0) == checking.CheckResult(
        oversold=0, violations=[]
    )


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (
            "UPDATE event SET overbooked_spots = 1, capacity = spots_reserved - 1 WHERE closes_at IS NULL",
            "an event is oversold",
        ),
        ("UPDATE event SET waitlist_length = 1", "a counter differs from its rows"),
        ("UPDATE event SET waitlist_length = 1", "a registration waits while a spot is free"),
        ("UPDATE registration SET status = 'WAITLIST' WHERE seq < {middle}", "a registration was overtaken"),
        (
            "INSERT INTO pending_command SELECT event_id, seq, id FROM command WHERE seq < {middle}",
            "a command is pending",
        ),
        ("DELETE FROM outcome", "a command was not settled once"),
        ('UPDATE outcome SET body = \'{{"outcome":"failed"}}\'', "a command failed"),
        ("DELETE FROM registration WHERE seq < {middle}", "an outcome has not its registration"),
        ("UPDATE event SET audit_seq = audit_seq + 1", "an audit trail differs from its rows"),
        ("DELETE FROM command WHERE seq < {middle}", "1 registrations were answered, the ledger holds"),
    ],
)
def test_every_planted_fault_is_found(arena: Arena, wrong: str, rule: str) -> None:
    preload.service(arena, events=1, rows=ROWS)
    middle = arena.scalar("SELECT max(seq) - 5 FROM command")
    # In one transaction that is rolled back, so that no owner sees any of it.
    arena.database.execute("BEGIN")
    try:
        arena.database.execute(wrong.format(middle=middle).encode())
        found = checking.service(arena, preloaded=ROWS, answered=1)
    finally:
        arena.database.execute("ROLLBACK")
    assert any(violation.startswith(rule) for violation in found.violations), found


def test_what_a_contestant_sells_too_often_is_counted(arena: Arena) -> None:
    preload.baseline(arena, events=2, rows=ROWS)
    arena.database.execute("UPDATE baseline.event SET capacity = capacity - 503")
    assert checking.baseline(arena).oversold == 6


async def leave_unanswered(url: str, slug: str) -> None:
    async with http_client.Connection(url, request_seconds_max=1) as connection:
        with pytest.raises(http_client.ConnectionLost):
            await connection.request(
                "POST", f"/api/p/{slug}/register", measure.HEADERS, measure.BODY.encode()
            )


def test_a_contestant_that_does_not_finish_is_started_again(arena: Arena) -> None:
    server = arena.baselines[plan.LOCK]
    before = server.pid
    (slug,) = preload.baseline(arena, events=1, rows=ROWS).values()
    with psycopg.connect(arena.addresses.database_url.replace("+psycopg", "")) as other:
        other.execute("SELECT FROM baseline.event FOR UPDATE")
        asyncio.run(leave_unanswered(server.url, slug))
        arena.calm(plan.LOCK)
    assert server.pid != before
    after = server.pid
    arena.calm(plan.LOCK)
    assert server.pid == after


def test_a_day_tells_its_state_ten_times(arena: Arena) -> None:
    told: list[day.Step] = []
    steps = day.run(arena, 10 * day.BATCH, told.append)
    assert told == steps
    assert [step.commands for step in steps] == [day.BATCH * number for number in range(1, day.STEPS + 1)]
    assert all(step.per_second > 0 for step in steps)
    assert arena.scalar("SELECT count(*) FROM outcome") == str(steps[-1].commands)
    kinds = {kind for (kind,) in arena.database.execute("SELECT body ->> 'outcome' FROM outcome")}
    assert kinds >= {"confirmed", "refused", "status_changed"}


def test_ticks_are_measured_beside_idle_events(settings: Settings) -> None:
    found = ticks.run(settings, events=300, workers=3, rounds=2)

    assert (found.events, found.active, found.workers, found.ticks) == (300, 3, 3, 6)
    assert 0 < found.median_ms <= found.p95_ms
    assert found.most_ms > 0 < found.cpu_ms
    assert found.locks == ids.BUCKETS + 2 * 3
