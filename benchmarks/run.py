"""`admitone bench`: measures the service and its alternatives on one machine, in one run."""

from pathlib import Path

from benchmarks import arena as arenas
from benchmarks import bulk, cpu, measure, plan
from benchmarks import drop as drops
from benchmarks.arena import Arena
from benchmarks.bulk import Bulk
from benchmarks.drop import Drop
from benchmarks.measure import Measurement
from benchmarks.plan import Plan, Trial
from benchmarks.report import machine, plot, printing, report
from benchmarks.report.printing import Progressed
from benchmarks.report.report import OpenLoop, Report, Results

REPORT_FILE, PICTURE_FILE = "report.json", "report.svg"


def command(wanted: Plan, *, as_json: bool, output: Path) -> int:
    """Run the benchmark, show its report and write it to files; return the exit status."""
    with printing.progressing(steps(wanted), quiet=as_json) as progressed:
        result = run(wanted, progressed)
    content = printing.keep(result, output / REPORT_FILE)
    (output / PICTURE_FILE).write_text(plot.picture(result.lines, wanted), encoding="utf-8")
    if as_json:
        print(content)  # noqa: T201
    else:
        printing.show(result)
        print(f"Kept in {output}: {REPORT_FILE}, {PICTURE_FILE}")  # noqa: T201
    return 1 if result.violations else 0


def run(wanted: Plan, progressed: Progressed = lambda _name: None) -> Report:
    """Measure all points of the plan; raises `BenchmarkError` or `EmbeddedError` if it cannot.

    `progressed` is called after each measurement, `steps(wanted)` times.
    """
    with arenas.opened(wanted.workers) as arena:
        results = _measure_all(arena, wanted, progressed)
        open_loop = _open_loop(arena, wanted, results)
        progressed("open loop")
        dropped = drops.drop(arena, wanted.main, wanted.drop) if wanted.drop else None
        progressed("drop")
        return _report(arena, wanted, results, open_loop, dropped)


def steps(wanted: Plan) -> int:
    """Return the number of measurements of the plan."""
    return len(list(wanted.trials())) + len(bulk.RUNS) * wanted.rounds + 2


def _measure_all(arena: Arena, wanted: Plan, progressed: Progressed) -> Results:
    measured: list[Measurement] = []
    in_bulk: list[Bulk] = []
    for round_ in range(1, wanted.rounds + 1):
        for trial in (trial for trial in wanted.trials() if trial.round == round_):
            measured.append(measure.measure(arena, trial, wanted.seconds_at(trial.point)))
            progressed(trial.contestant)
        for name, write in bulk.RUNS.items():
            in_bulk.append(write(arena, wanted.drain_rows, round_))
            progressed(name)
    return Results(measured, in_bulk)


def _open_loop(arena: Arena, wanted: Plan, results: Results) -> OpenLoop:
    rate = plan.OPEN_LOOP_SHARE * results.decided_per_second(wanted.main)
    trial = Trial(plan.DECIDED, wanted.main, wanted.rounds)
    measured = measure.measure(arena, trial, wanted.seconds, per_second=rate)
    used_us = measured.cpu_us[cpu.GENERATOR] * measured.answers
    return OpenLoop(
        asked_per_second=rate,
        generator_core_share=used_us / (wanted.seconds * cpu.US_PER_SECOND),
        measured=measured,
    )


def _report(
    arena: Arena, wanted: Plan, results: Results, open_loop: OpenLoop, dropped: Drop | None
) -> Report:
    rates, used = report.bulk_medians(results)
    return Report(
        machine=machine.describe(arena.database, arena.results),
        durability=arena.durability(),
        seconds=wanted.seconds,
        rounds=wanted.rounds,
        lines=results.lines(),
        bulk=rates,
        bulk_cpu_us=used,
        open_loop=open_loop,
        drop=dropped,
        summary=report.summary(results, wanted),
        others_share_max=results.others_share_max(),
        violations=_violations(results, open_loop, dropped),
    )


def _violations(results: Results, open_loop: OpenLoop, dropped: Drop | None) -> list[str]:
    measured = [m for rounds in results.by_place.values() for m in rounds.values()]
    violations = [
        f"{m.contestant}, {m.connections} connections, {m.rows} rows, {m.events} events, "
        f"round {m.round}: {violation}"
        for m in [*measured, open_loop.measured]
        for violation in m.violations
    ]
    in_bulk = [b for rounds in results.bulk.values() for b in rounds.values()]
    violations += [f"{b.name}, round {b.round}: {violation}" for b in in_bulk for violation in b.violations]
    return violations + [f"drop: {violation}" for violation in (dropped.violations if dropped else [])]
