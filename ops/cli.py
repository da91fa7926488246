"""The command line: `./admitone <command>`.

Heavy modules are imported inside the commands, so that `--help` is fast. An expected error is one clear line
on stderr, and its class has the exit status.
"""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ops import operating, programs
from shared.errors import ExpectedError

CHECKOUT = Path(__file__).resolve().parent.parent

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Registration for ticket drops: never oversold, never lost, answered once.",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it with the flag's value
    if wanted:
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        print(f"admitone {project['version']}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port on 127.0.0.1.")] = 9000,
    data: Annotated[Path, typer.Option(help="The folder that keeps all data.")] = Path(".admitone"),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    api_processes: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    demo: Annotated[bool, typer.Option(help="Make the demonstration event.")] = True,
) -> None:
    """Run everything on this machine, PostgreSQL and Valkey included, until Ctrl-C."""
    from ops import stack  # noqa: PLC0415

    stack.up(stack.Plan(port=port, data=data, workers=workers, api_processes=api_processes, demo=demo))


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def test(context: typer.Context) -> None:
    """Run the whole test suite; arguments are pytest's."""
    os.chdir(CHECKOUT)
    measured = ["-m", "coverage", "run"] if os.environ.get("ADMITONE_TEST_COVERAGE") == "1" else []
    os.execv(sys.executable, [sys.executable, *measured, "-m", "pytest", *context.args])  # noqa: S606  # no shell


@app.command()
def migrate() -> None:
    """Bring the database of ADMITONE_DATABASE_URL to this version's schema."""
    from ops import schema  # noqa: PLC0415
    from shared import settings  # noqa: PLC0415

    schema.upgrade(settings.load(settings.DatabaseSettings).database_url)


@app.command()
def api(
    *,
    host: Annotated[str | None, typer.Option(help="Instead of ADMITONE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Instead of ADMITONE_PORT.")] = None,
    fd: Annotated[int | None, typer.Option(min=3, help="A listening socket to serve instead.")] = None,
) -> None:
    """Run one API process."""
    for name, value in (("ADMITONE_HOST", host), ("ADMITONE_PORT", port)):
        if value is not None:
            os.environ[name] = str(value)
    from api import main as api_main  # noqa: PLC0415
    from shared import settings  # noqa: PLC0415

    programs.wait_at_gate()
    api_main.serve(settings.load(settings.Settings), fd)


@app.command()
def worker() -> None:
    """Run one worker process."""
    from worker import main as worker_main  # noqa: PLC0415

    programs.wait_at_gate()
    worker_main.serve()


@app.command("worker-health")
def worker_health() -> None:
    """Tell by the exit status whether this host's worker ticks; for its container's health check."""
    from ops import health  # noqa: PLC0415
    from shared import settings  # noqa: PLC0415

    if not health.worker_is_alive(settings.load(settings.Settings)):
        print("admitone: no worker of this host ticks", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
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
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="Judge this version beside that git revision, in turns.")
    ] = None,
    turns: Annotated[int | None, typer.Option(help="Of each version, with --against; 9 or more.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="With --against: only these, such as closed-256,drain,open.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for the report and its picture.")] = Path(
        ".admitone-bench"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure this service and the other ways of registering, side by side on this machine."""
    from benchmarks import run  # noqa: PLC0415
    from benchmarks.judge import run as judge_run  # noqa: PLC0415

    if against is not None:
        if any(option is not None for option in (connections, rows, events, rounds, drop)):
            raise typer.BadParameter("--against goes with --figures, --turns, --seconds and --quick")
        raise typer.Exit(
            judge_run.command(
                against,
                quick=quick,
                only=figures,
                turns=turns,
                seconds=seconds,
                as_json=as_json,
                output=output,
            )
        )
    if figures is not None or turns is not None:
        raise typer.BadParameter("--figures and --turns go with --against")
    raise typer.Exit(
        run.command(
            quick=quick,
            connections=connections,
            rows=rows,
            events=events,
            seconds=seconds,
            rounds=rounds,
            drop=drop,
            as_json=as_json,
            output=output,
        )
    )


operating.add_to(app)


def main() -> None:
    """Run the command line; an expected error ends it with a line, never a traceback."""
    try:
        app(prog_name="admitone")
    except ExpectedError as error:
        _end(str(error), error.exit_status)
    except Exception as error:
        from sqlalchemy import exc  # noqa: PLC0415

        if not isinstance(error, exc.OperationalError | exc.ProgrammingError):
            raise
        said = str(error.orig).partition("\n")[0]
        unmigrated = "does not exist" in said
        _end(f"the database: {said}" + ("; has ./admitone migrate been run?" if unmigrated else ""), 1)


def _end(said: str, status: int) -> NoReturn:
    print(f"admitone: {said}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
