"""The report of a run: as a table for people, or as one JSON object."""

import os
import platform
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.chaos import recovery
from tests.chaos.campaign import Result
from tests.chaos.faults import table as faults
from tests.chaos.scenarios.findings import Findings

SHOWN_MAX = 20
WIDTH_MIN = 120
"""The names of faults are long, and a pipe has only 80 columns."""
CHECKOUT = Path(__file__).resolve().parents[2]


def as_json(result: Result) -> str:
    """Return the report as one JSON object."""
    verdict = result.verdict
    content: dict[str, Any] = {
        "seed": result.plan.seed,
        "passed": result.passed,
        "version": version(),
        "machine": machine(),
        "servers": result.servers,
        "parts": sorted(result.parts),
        "seconds": round(result.seconds, 1),
        "events": verdict.events,
        "operations": verdict.operations,
        "commands": verdict.commands,
        "commandsOfBacklogs": result.commands_of_backlogs,
        "outcomes": dict(verdict.outcomes),
        "decidedAgain": verdict.decided_again,
        "judgedSeconds": round(verdict.seconds, 2),
        "faults": len(result.struck),
        "struck": result.struck,
        "salvos": result.salvos,
        "faultTypes": list(recovery.summarise([*result.struck, *result.salvos])),
        "neverStruck": never_struck(result),
        "drainedBefore": round(result.drained_before),
        "drainedAfter": round(result.drained_after),
        "resumedSeconds": round(result.resumed_seconds, 3),
        "late": result.late,
        "violations": verdict.violations,
    }
    return msgspec.json.encode(content).decode()


def findings_as_json(findings: Findings) -> str:
    """Return the report of a scenario as one JSON object."""
    head = {"passed": findings.passed, "version": version(), "machine": machine(), "beyond": findings.beyond}
    return msgspec.json.encode({**head, **msgspec.to_builtins(findings)}).decode()


def show_findings(findings: Findings, folder: str | None) -> None:
    """Print the report of a scenario for people."""
    console = Console(width=max(Console().width, WIDTH_MIN))
    table = Table(
        title=f"{findings.scenario.capitalize()}, seed {findings.seed}, {findings.seconds:.0f} s",
        title_justify="left",
    )
    for column in ("figure", "value", "unit", "bar"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in findings.figures:
        style = "red" if figure.is_beyond else ""
        table.add_row(figure.name, f"{figure.value:,.6g}", figure.unit, figure.bar, style=style)
    console.print(table)
    console.print(_place(findings.servers), markup=False, highlight=False, soft_wrap=True)
    beyond = [f"beyond its bar{'' if findings.timed else ', not judged'}: {text}" for text in findings.beyond]
    _end(console, findings.violations, beyond, folder, passed=findings.passed)


def show(result: Result, folder: str | None) -> None:
    """Print the report for people; `folder` has the logs and the data, if they are kept."""
    verdict = result.verdict
    console = Console(width=max(Console().width, WIDTH_MIN))
    table = Table(title=f"Chaos, seed {result.plan.seed}", title_justify="left")
    for column in ("fault", "struck", "alone", "p50 s", "p99 s", "worst s", "bar s"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for row in recovery.summarise([*result.struck, *result.salvos]):
        times = ["" if value is None else f"{value:.2f}" for value in (row.p50, row.p99, row.worst)]
        table.add_row(row.name, str(row.struck), str(row.alone), *times, f"{row.bar_seconds:g}")
    console.print(table)
    for line in _sentences(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    late = [f"late{'' if result.plan.timed else ', not judged'}: {text}" for text in result.late]
    _end(console, verdict.violations, late, folder, passed=result.passed)


def _end(
    console: Console, violations: Sequence[str], late: Sequence[str], folder: str | None, *, passed: bool
) -> None:
    for text in [*violations[:SHOWN_MAX], *late]:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if len(violations) > SHOWN_MAX:
        console.print(f"and {len(violations) - SHOWN_MAX:,} more (--json has them all)")
    if folder is not None:
        console.print(f"Look at {folder}: data/log has the logs of all processes, disk the tables.")
    line = "Every promise was kept." if passed else "FAILED"
    console.print(line, style="green" if passed else "bold red")


def version() -> str:
    """Return the version of this checkout, with its commit where there is one."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - the checkout's own tool
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    return " ".join([str(project["version"]), *found.stdout.split()])


def machine() -> dict[str, str]:
    """Return the parts of the machine that figures depend on."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "machine": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _place(servers: str) -> str:
    return f"AdmitOne {version()} with {servers} on {', '.join(machine().values())}"


def never_struck(result: Result) -> list[str]:
    """Return the types of faults that this service has, and that did not strike in this run."""
    struck = {fault.name for fault in result.struck}
    return [kind.name for kind in faults.of_service(result.parts) if kind.name not in struck]


def _sentences(result: Result) -> Iterator[str]:
    verdict = result.verdict
    outcomes = ", ".join(f"{times:,} {name}" for name, times in verdict.outcomes.most_common())
    yield _place(result.servers)
    yield f"{len(result.struck)} faults in {result.seconds:,.0f} s, at {verdict.events:,} events"
    under_faults = verdict.commands - result.commands_of_backlogs
    yield (
        f"{verdict.operations:,} operations, {verdict.commands:,} commands, "
        f"{under_faults:,} of them under faults: {outcomes}"
    )
    yield f"judged in {verdict.seconds:.1f} s; the model decided {verdict.decided_again:,} commands again"
    if result.plan.backlog:
        yield f"a backlog drained at {result.drained_before:,.0f}/s, then at {result.drained_after:,.0f}/s"
    if "small disk" not in result.parts:
        yield 'no disk was full, because no tmpfs can be mounted here: the faults "no space" are errors only'
    yield f"deciding resumed {result.resumed_seconds:.2f} s after the last fault"
