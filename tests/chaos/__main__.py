"""The command line of the fault harness: `./admitone chaos`."""

import os
import random
import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ops.rehearsal import temporary_stack
from shared import open_files
from shared.errors import ExpectedError
from tests.chaos import campaign, report
from tests.chaos.campaign import Plan, Result
from tests.chaos.faults import table
from tests.chaos.scenarios import overload, scale
from tests.chaos.scenarios.findings import Findings
from tests.chaos.servers import Programs


class Scenario(StrEnum):
    """What happens to the service."""

    FAULTS = "faults"
    SCALE = "scale"
    OVERLOAD = "overload"


FOREIGN = ("ADMITONE_", "PG")
"""Variables of another installation, which the service's programs would inherit."""


def chaos(  # noqa: PLR0913 - one parameter for each option
    *,
    seed: Annotated[int | None, typer.Option(help="Repeats a run; without it a new one is drawn.")] = None,
    faults: Annotated[int, typer.Option(min=0, help="The run ends after so many faults, ")] = 200,
    minutes: Annotated[float, typer.Option(min=0, help="or after so many minutes.")] = 5.0,
    rate: Annotated[float, typer.Option(min=1, help="About so many operations a second.")] = 200.0,
    backlog: Annotated[
        int, typer.Option(min=0, help="So many commands drain before and after the faults; 0: none.")
    ] = 20_000,
    only: Annotated[str, typer.Option(help="Only faults with this text in their names.")] = "",
    untimed: Annotated[
        bool, typer.Option("--untimed", help="Judge no times, because this machine is busy.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    scenario: Annotated[
        Scenario, typer.Option(help="Instead of faults: processes that join and leave, or a crowd.")
    ] = Scenario.FAULTS,
    postgres: Annotated[
        Path | None, typer.Option(help="The folder of the programs of another PostgreSQL.")
    ] = None,
    redis: Annotated[Path | None, typer.Option(help="The program of another Redis.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="A RabbitMQ of this machine, amqp://…; it gets a virtual host.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the servers' data and the logs.")] = False,
) -> None:
    """Break a whole service in every way that we know, under load, and judge every promise.

    Exit status 0: every promise was kept; 1: one was not; 2: the run could not begin.
    """
    if not any(only in kind.name for kind in table.FAULTS):
        raise typer.BadParameter(f"no fault has {only!r} in its name")
    plan = Plan(
        seed=random.randrange(1_000_000) if seed is None else seed,  # noqa: S311 - printed, to be repeated
        faults=faults,
        minutes=minutes,
        per_second=rate,
        timed=not untimed,
        backlog=backlog,
        only=only,
        programs=Programs(postgres=postgres, redis=redis, broker=broker),
    )
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    open_files.raise_limit()
    folder = Path(tempfile.mkdtemp(prefix="admitone-chaos-"))
    kept = True
    try:
        result: Result | Findings
        with temporary_stack.stopped_like_interrupted():
            match scenario:
                case Scenario.FAULTS:
                    result = campaign.run(plan, folder)
                case Scenario.SCALE:
                    result = scale.run(
                        scale.Plan(seed=plan.seed, timed=plan.timed, programs=plan.programs), folder
                    )
                case Scenario.OVERLOAD:
                    result = overload.run(
                        overload.Plan(seed=plan.seed, timed=plan.timed, programs=plan.programs), folder
                    )
        kept = keep or not result.passed
        _report(result, str(folder) if kept else None, as_json=as_json)
    except ExpectedError as error:
        kept = keep
        print(f"chaos: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from error
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(0 if result.passed else 1)


def _report(outcome: Result | Findings, folder: str | None, *, as_json: bool) -> None:
    match outcome:
        case Result() if as_json:
            print(report.as_json(outcome))  # noqa: T201
        case Result():
            report.show(outcome, folder)
        case Findings() if as_json:
            print(report.findings_as_json(outcome))  # noqa: T201
        case Findings():
            report.show_findings(outcome, folder)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(chaos)
if __name__ == "__main__":
    app(prog_name="admitone chaos")
