"""The benchmark's arithmetic: what it reads from others' output, what it makes of it, how it shows it."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api import main as api_main
from api.edge import connections
from benchmarks import cpu, plan
from benchmarks.bulk import DRAIN, LIMIT, Bulk
from benchmarks.contestants import serving
from benchmarks.contestants.http import Registering
from benchmarks.drop import Drop, Memory, resident_mb
from benchmarks.load import generator, runner, wrk
from benchmarks.load.load import Load, LoadResult
from benchmarks.measure import Measurement
from benchmarks.plan import COUNTER, DECIDED, EMPTY, Plan, Point, Trial
from benchmarks.processes import BenchmarkError
from benchmarks.report import plot, printing, report
from benchmarks.report.report import OpenLoop, Report, Results
from shared import telemetry
from shared.settings import Settings

MAIN = Point(256, 1_000, 1)
WRK_OUTPUT = """Running 2s test @ http://127.0.0.1:1/register
  1 threads and 256 connections
Requests/sec:   5000.00
heard {"requests":10000,"us":2000000,"status":3,"broken":2,"p50":40000,"p95":50000,"p99":60500,"max":70000}
"""


def a_load(**changes: Any) -> Load:
    known: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "method": "POST",
        "paths": ["/a"],
        "headers": {"content-type": "application/json"},
        "body": '{"name":"User A"}',
        "expected": 201,
        "connections": 2,
        "seconds": 1,
    }
    return Load(**{**known, **changes})


def a_measurement(contestant: str, per_second: float, round_: int = 1, **changes: Any) -> Measurement:
    known: dict[str, Any] = {
        "connections": MAIN.connections,
        "rows": MAIN.rows,
        "events": MAIN.events,
        "answers": 10,
        "errors": 0,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "max_ms": 4.0,
        "oversold": 0,
        "others_share": 0.25,
        "cpu_us": {
            cpu.API: 100.0,
            cpu.WORKER: 50.0,
            cpu.POSTGRES: 25.0,
            cpu.VALKEY: 5.0,
            cpu.GENERATOR: 20.0,
        },
        "violations": [],
    }
    made = {**known, **changes}
    return Measurement(contestant=contestant, per_second=per_second, round=round_, **made)


def a_bulk(name: str, per_second: float) -> Bulk:
    used = {cpu.POSTGRES: 1.0}
    return Bulk(name=name, round=1, rows=500, per_second=per_second, cpu_us=used, violations=[])


def ratios(results: Results, asked: Plan) -> dict[str, float | None]:
    return {compared.name: compared.ratio for compared in report.summary(results, asked)}


def test_what_wrk_heard_is_read_from_its_scripts_line() -> None:
    assert wrk.parse(WRK_OUTPUT, expected=201) == LoadResult(
        answers=9_997, errors=5, seconds=2.0, p50_ms=40.0, p95_ms=50.0, p99_ms=60.5, max_ms=70.0
    )


def test_refusals_are_the_answers_where_they_are_expected() -> None:
    heard = wrk.parse(WRK_OUTPUT, expected=409)
    assert (heard.answers, heard.errors) == (3, 9_999)


def test_lua_is_needed_for_several_paths_only() -> None:
    assert "request = function" not in wrk.script(a_load())
    script = wrk.script(a_load(paths=["/a", "/b"]))
    assert "request = function" in script
    assert 'local paths = { "/a", "/b" }' in script
    assert r'wrk.body = "{\"name\":\"User A\"}"' in script


def test_no_other_machine_is_loaded() -> None:
    with pytest.raises(AssertionError, match="loopback"):
        a_load(url="http://192.0.2.1:9000")


def test_without_wrk_the_projects_own_generator_puts_the_load_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runner.tool() == "own generator"


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (95, 10), (99, 10), (100, 10), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert generator.percentile(list(range(1, 11)), percent) == expected


def test_nothing_heard_has_no_percentile() -> None:
    assert generator.percentile([], 99) == 0


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def answering(*statuses: int) -> Answering:
    """Answer each request with the next of the statuses, in a circle."""
    turn = itertools.cycle(statuses)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(a_load().body))
                writer.write(b"HTTP/1.1 %d Any\r\ncontent-length: 0\r\n\r\n" % next(turn))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return serve


async def heard_from(serve: Answering, **changes: Any) -> LoadResult:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        heard = await generator.generate(a_load(url=url, **changes))
        if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(handlers)
        return heard


def test_a_closed_loop_tells_expected_answers_from_others() -> None:
    heard = asyncio.run(heard_from(answering(201, 202)))
    assert heard.answers > 0
    assert abs(heard.answers - heard.errors) <= 1
    assert heard.p50_ms <= heard.p99_ms <= heard.max_ms


def test_an_open_loop_sends_what_its_rate_asks_for_and_no_more() -> None:
    heard = asyncio.run(heard_from(answering(201), per_second=50.0))
    assert (heard.answers, heard.errors, heard.unsent) == (50, 0, 0)


def test_a_silent_server_gets_the_worst_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "ANSWER_SECONDS_MAX", 1.5)

    async def answer_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()

    heard = asyncio.run(heard_from(answer_nothing, per_second=50.0))
    assert (heard.answers, heard.errors, heard.unsent) == (0, 2, 48)
    assert heard.p50_ms == heard.p99_ms == heard.max_ms == 2_500


def test_an_error_counts_as_the_worst_time() -> None:
    heard = asyncio.run(heard_from(answering(201, 503), per_second=50.0))
    assert (heard.answers, heard.errors, heard.unsent) == (25, 25, 0)
    assert heard.p95_ms == heard.max_ms == (1 + generator.ANSWER_SECONDS_MAX) * 1_000
    assert heard.p50_ms < 1_000


def test_a_server_that_is_not_there_is_an_error_and_no_end() -> None:
    heard = asyncio.run(generator.generate(a_load(per_second=5.0)))
    assert (heard.answers, heard.errors) == (0, 5)


def test_the_memory_of_a_process_is_what_is_resident() -> None:
    status = "Name:\tpython\nVmPeak:\t  900000 kB\nVmRSS:\t  100000 kB\nVmData:\t 1 kB\n"
    assert resident_mb(status) == pytest.approx(102.4)


def test_a_process_counts_with_its_ended_children_whatever_it_is_called() -> None:
    stat = "42 (a) b (c) S 7 1 1 0 -1 4194304 100 200 0 0 11 22 33 44 20 0 1 0 5 6 7"
    assert cpu.read(stat) == cpu.Seen(parent=7, ticks=11 + 22 + 33 + 44)


def test_the_processors_time_only_grows() -> None:
    before, busy = cpu.used_us({"here": [os.getpid()], "nobody": []}), cpu.machine_us()
    until = os.times().user + 0.05
    while os.times().user < until:
        pass
    after = cpu.used_us({"here": [os.getpid()], "nobody": []})
    assert after["here"] >= before["here"] + cpu.US_PER_TICK
    assert after["nobody"] == 0
    assert cpu.machine_us() >= busy + cpu.US_PER_TICK


def test_each_round_goes_through_all_contestants() -> None:
    asked = plan.plan(
        quick=False, connections="1,256", rows="10,20", events=None, seconds=1, rounds=2, drop=0
    )
    trials = list(asked.trials())
    half = len(trials) // 2
    assert [t.round for t in trials] == [1] * half + [2] * half
    assert [(t.contestant, t.point) for t in trials[:half]] == [
        (t.contestant, t.point) for t in trials[half:]
    ]
    assert Trial(DECIDED, Point(256, 20, 1), 1) in trials
    assert Trial(EMPTY, Point(256, 20, 1), 1) not in trials


def test_a_quick_run_compares_all_at_one_point_only() -> None:
    trials = list(plan.QUICK.trials())
    at_main = [t.contestant for t in trials if t.point == plan.QUICK.main]
    assert at_main == [*plan.BASELINES, *plan.SERVICE]
    assert [t.contestant for t in trials if t.point.connections == 1] == [EMPTY, COUNTER, DECIDED]
    assert plan.QUICK.seconds_at(Point(1, 1_000, 1)) <= plan.QUICK.seconds_at(plan.QUICK.main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": "1,x"},
        {"connections": "0"},
        {"rows": "99999999999"},
        {"events": "-1"},
        {"seconds": 0},
        {"rounds": 1_000},
        {"drop": -1},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    options = {
        "connections": None,
        "rows": None,
        "events": None,
        "seconds": None,
        "rounds": None,
        "drop": None,
    }
    with pytest.raises(BenchmarkError):
        plan.plan(quick=True, **{**options, **wrong})


def test_a_ratio_is_taken_within_each_round() -> None:
    results = Results(
        [
            *(a_measurement(DECIDED, rate, round_) for round_, rate in enumerate((100, 10, 1), 1)),
            *(a_measurement(EMPTY, rate, round_) for round_, rate in enumerate((50, 5, 1), 1)),
        ],
        [],
    )
    assert results.ratio("perSecond", (DECIDED, MAIN), (EMPTY, MAIN)) == 2
    (line, _) = results.lines()
    assert (line.per_second, line.to_empty["perSecond"], line.to_counter["perSecond"]) == (10, 2, None)
    assert line.generator_share == pytest.approx(0.1)


def test_what_was_not_measured_has_no_ratio() -> None:
    found = ratios(Results([a_measurement(DECIDED, 100)], []), plan.QUICK)
    assert set(found.values()) == {None}
    assert "decision cost at 1,000,000 rows over 1,000" in found
    assert "decided/s over 1,000 events over 1" in found


def test_nothing_divided_by_nothing_is_no_ratio() -> None:
    results = Results([a_measurement(DECIDED, 100), a_measurement(EMPTY, 0)], [])
    assert results.ratio("perSecond", (DECIDED, MAIN), (EMPTY, MAIN)) is None


def test_the_summary_compares_like_with_like() -> None:
    used = {cpu.API: 80.0, cpu.WORKER: 40.0, cpu.POSTGRES: 60.0, cpu.VALKEY: 20.0, cpu.GENERATOR: 9.0}
    measured = [
        a_measurement(EMPTY, 1_000, cpu_us={**used, cpu.API: 160.0, cpu.WORKER: 0.0}),
        a_measurement(COUNTER, 200, p99_ms=600.0),
        a_measurement(DECIDED, 1_400, p99_ms=60.0, cpu_us=used),
        a_measurement(COUNTER, 1, connections=1, p50_ms=2.0),
        a_measurement(DECIDED, 1, connections=1, p50_ms=3.0),
        a_measurement(DECIDED, 1, rows=1_000_000, cpu_us={**used, cpu.POSTGRES: 80.0}),
        a_measurement(DECIDED, 700, events=1_000),
    ]
    asked = plan.plan(
        quick=False, connections=None, rows="1000,1000000", events="1,1000", seconds=1, rounds=1, drop=0
    )
    found = ratios(Results(measured, [a_bulk(DRAIN, 50), a_bulk(LIMIT, 100)]), asked)
    assert {name: ratio for name, ratio in found.items() if ratio is not None} == {
        "decided/s over empty": pytest.approx(1.4),
        "decided/s over counter": pytest.approx(7),
        "p99 over counter's": pytest.approx(0.1),
        "one client's p50 over counter's": pytest.approx(1.5),
        "drain over limit": pytest.approx(0.5),
        "decision cost at 1,000,000 rows over 1,000": pytest.approx(1.1),
        "decided/s over 1,000 events over 1": pytest.approx(0.5),
        "API CPU over empty's CPU": pytest.approx(0.5),
        "worker CPU over empty's CPU": pytest.approx(0.25),
    }


def a_report(results: Results, *violations: str) -> Report:
    rates, used = report.bulk_medians(results)
    return Report(
        machine={"cpu": "Any"},
        durability={"fsync": "on"},
        seconds=1,
        rounds=1,
        lines=results.lines(),
        bulk=rates,
        bulk_cpu_us=used,
        open_loop=OpenLoop(
            asked_per_second=70,
            generator_core_share=0.5,
            measured=a_measurement(DECIDED, 70, unsent=3, late_p99_ms=1.0),
        ),
        drop=Drop(
            registrations=1_000,
            per_second=500,
            memory_mb={cpu.API: Memory(before=80, most=95, after=90)},
            violations=[],
        ),
        summary=report.summary(results, plan.QUICK),
        others_share_max=results.others_share_max(),
        violations=list(violations),
    )


def test_a_person_is_shown_everything(capsys: pytest.CaptureFixture[str]) -> None:
    results = Results([a_measurement(EMPTY, 1_000), a_measurement(DECIDED, 1_234)], [a_bulk(LIMIT, 5_000)])
    printing.show(a_report(results, "an event is oversold [1 times]"))
    shown = capsys.readouterr().out
    shown = " ".join(shown.split())  # a long line is broken at the terminal's width
    for part in (
        "fsync=on",
        "1,234",
        "limit: 5,000",
        "not measured",
        "oversold [1 times]",
        "open loop, 70/s",
        "3 could not be sent",
        "50% of a core",
        "up to 25%",
        "a drop of 1,000 registrations at 500/s: API 80 MB before, 95 at most, 90 after",
    ):
        assert part in shown


def test_the_picture_has_a_curve_for_each_contestant_in_both_panels() -> None:
    alone = {"connections": 1}
    results = Results(
        [
            a_measurement(EMPTY, 5_000),
            a_measurement(DECIDED, 6_000),
            a_measurement(EMPTY, 900, **alone),
            a_measurement(DECIDED, 0, p99_ms=0.0, **alone),  # a logarithm has no place for it
            a_measurement(DECIDED, 1, rows=5),  # another number of rows: not in the picture
        ],
        [],
    )
    picture = ET.fromstring(plot.picture(results.lines(), plan.QUICK))  # noqa: S314 - our own
    curves = picture.findall(".//{*}polyline")
    assert [len(curve.attrib["points"].split()) for curve in curves] == [2, 1, 2, 1]


def test_the_empty_endpoint_is_also_served_with_the_services_own_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: list[dict[str, Any]] = []

    def note(_app: object, **flags: Any) -> None:
        served.append({name: value for name, value in flags.items() if name not in {"host", "port"}})

    class Unserved:
        def __init__(self, *_: object) -> None:
            pass

        def run(self, **_: object) -> None:
            pass

    monkeypatch.setattr(uvicorn, "Config", note)
    monkeypatch.setattr(connections, "Server", Unserved)
    monkeypatch.setattr(api_main, "_Server", Unserved)
    monkeypatch.setattr("socket.socket", lambda **_: None)
    monkeypatch.setattr(telemetry, "configure", lambda _settings: None)
    api_main.serve(
        Settings(
            database_url="postgresql://localhost/any", broker_url="redis://any", result_url="redis://any"
        ),
        fd=3,
    )
    serving.serve_here(FastAPI(), 3)
    assert served[0] == served[1]


def test_the_other_ways_are_served_by_uvicorn_as_it_comes() -> None:
    asked = (
        "from benchmarks.contestants import serving, ways\n"
        "from uvicorn.protocols.http import httptools_impl as uvicorns\n"
        "print(uvicorns.RequestResponseCycle.__module__ == uvicorns.__name__)"
    )
    checkout = Path(__file__).resolve().parents[2]
    assert subprocess.check_output([sys.executable, "-c", asked], cwd=checkout, text=True) == "True\n"


@pytest.fixture
def accepted() -> dict[str, Any]:
    """A body that is accepted."""
    return {"name": "User A", "spotsCount": 1, "email": None}


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "x" * 201}, {"spotsCount": 0}, {"spotsCount": 1_001}, {"email": "x"}]
)
def test_the_others_validate_what_the_service_does(accepted: dict[str, Any], wrong: dict[str, Any]) -> None:
    Registering.model_validate(accepted)
    with pytest.raises(ValidationError):
        Registering.model_validate({**accepted, **wrong})
