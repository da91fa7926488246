"""The command line of the benchmark: `./admitone bench`.

Exit status 0: all was measured and every answer was right; 1: the report names violations; 2: the benchmark
could not run, and standard error says why.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import day as days
from benchmarks import plan, run, ticks
from benchmarks.judge import run as judge_run
from ops.rehearsal import temporary_stack
from shared.errors import ExpectedError


def bench(  # noqa: PLR0913 - one parameter for each option
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points, a minute in all.")] = False,
    connections: Annotated[str | None, typer.Option(help="Such as 1,16,64,256,1000.")] = None,
    rows: Annotated[str | None, typer.Option(help="Existing registrations, such as 1000,100000.")] = None,
    events: Annotated[str | None, typer.Option(help="How many events at once, such as 1,10,1000.")] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help="How long each point is measured.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often; medians are shown.")] = None,
    drop: Annotated[
        int | None, typer.Option(min=0, help="Registrations of the drop in which memory is watched; 0: none.")
    ] = None,
    day: Annotated[
        int | None, typer.Option(min=1, help="Only this: so many commands, and what they do to the tables.")
    ] = None,
    idle: Annotated[
        int | None, typer.Option(min=1, help="Only this: so many events, and what a tick of a worker costs.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="Judge this version beside that git revision, in turns.")
    ] = None,
    turns: Annotated[int | None, typer.Option(help="Of each version, with --against; 9 or more.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="With --against: only these, such as closed-256,drain,open.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="With --against: the open loop's arrivals per second.")
    ] = None,
    variables: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="With --against: a setting that only this version has."
        ),
    ] = [],  # noqa: B006 - nothing changes it
    output: Annotated[Path, typer.Option(help="The folder for the report and its picture.")] = Path(
        ".admitone-bench"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure this service and the other ways of registering, side by side on this machine."""
    if day is not None:
        days.command(day, as_json=as_json)
        return
    if idle is not None:
        ticks.command(idle, as_json=as_json)
        return
    if against is not None:
        if any(option is not None for option in (connections, rows, events, rounds, drop)):
            raise typer.BadParameter("--against goes with --figures, --turns, --seconds, --rate and --quick")
        judged = judge_run.options(
            against,
            quick=quick,
            only=figures,
            turns=turns,
            seconds=seconds,
            rate=rate,
            variables=variables,
        )
        raise typer.Exit(judge_run.command(judged, as_json=as_json, output=output))
    if any(option is not None for option in (figures, turns, rate)) or variables:
        raise typer.BadParameter("--figures, --turns, --rate and --set go with --against")
    wanted = plan.plan(
        quick=quick,
        connections=connections,
        rows=rows,
        events=events,
        seconds=seconds,
        rounds=rounds,
        drop=drop,
    )
    raise typer.Exit(run.command(wanted, as_json=as_json, output=output))


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an expected error ends it with one line, without a traceback."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench)
    try:
        with temporary_stack.stopped_like_interrupted():
            app(argv, prog_name="admitone bench")
    except ExpectedError as error:
        print(f"bench: {error}", file=sys.stderr)  # noqa: T201 - a message for a person
        sys.exit(2)


if __name__ == "__main__":
    main()
