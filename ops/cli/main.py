"""The command line: `./admitone <command>`.

Heavy modules are imported inside the commands, so that `--help` is fast. An expected error is one clear line
on standard error, and its class has the exit status.
"""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ops.cli import key_commands, service_commands
from ops.stack import programs
from shared import environment, open_files
from shared.errors import ExpectedError

_ADVICE = {
    **dict.fromkeys(("42P01", "42703", "42883"), "; has ./admitone migrate been run?"),  # an unknown name
    "42P07": "; AdmitOne needs a database without tables of these names",
    "42501": '; docs/operating.md has the roles of each command, under "Roles"',  # a missing right
}
"""The words behind an error of the database, by its SQLSTATE."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Registration for ticket drops: never oversold, never lost, answered once.",
    epilog="In a checkout there are also test, bench, chaos and check; each takes --help.",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it with the flag's value
    if wanted:
        project = tomllib.loads((programs.CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
    data: Annotated[Path, typer.Option(help="The folder that keeps all data.")] = service_commands.DATA,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    api_processes: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    demo: Annotated[bool, typer.Option(help="Make the demonstration event.")] = True,
) -> None:
    """Run everything on this machine, PostgreSQL and Valkey included, until Ctrl-C."""
    from ops.stack import stack  # noqa: PLC0415

    stack.up(stack.Plan(port=port, data=data, workers=workers, api_processes=api_processes, demo=demo))


@app.command()
def migrate() -> None:
    """Bring the database of ADMITONE_DATABASE_URL to this version's schema."""
    from ops.maintenance import schema  # noqa: PLC0415
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
    from shared import settings  # noqa: PLC0415

    service = settings.load(settings.Settings)
    from api import main as api_main  # noqa: PLC0415

    programs.wait_at_gate()
    api_main.serve(service, fd)


@app.command()
def worker() -> None:
    """Run one worker process."""
    from shared import settings  # noqa: PLC0415

    settings.current()
    from worker import main as worker_main  # noqa: PLC0415

    programs.wait_at_gate()
    worker_main.serve()


@app.command("worker-health")
def worker_health() -> None:
    """Exit with status 0 if this container's worker ticks, else 1; for the container's health check."""
    from ops.maintenance import worker_health  # noqa: PLC0415
    from shared import settings  # noqa: PLC0415

    if not worker_health.worker_is_alive(settings.load(settings.Settings)):
        print("admitone: no worker of this container ticks", file=sys.stderr)
        raise typer.Exit(1)


for operator_command in (
    service_commands.status,
    service_commands.verify,
    service_commands.rehearse,
    service_commands.adopt,
    service_commands.tidy,
    service_commands.erase,
    key_commands.assign,
):
    app.command()(operator_command)
app.add_typer(service_commands.audit, name="audit")
app.add_typer(key_commands.keys, name="keys")


def main() -> None:
    """Run the command line; an expected error ends it with one line, without a traceback."""
    open_files.open_standard_streams()
    environment.clean()
    try:
        app(prog_name="admitone")
    except ExpectedError as error:
        _end(str(error), error.exit_status)
    except Exception as error:
        import psycopg  # noqa: PLC0415
        from sqlalchemy import exc  # noqa: PLC0415

        if isinstance(error, OSError):
            _end(str(error), 1)
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if not isinstance(cause, psycopg.OperationalError | psycopg.ProgrammingError):
            raise
        message = str(cause).partition("\n")[0]
        _end(f"the database: {message}{_ADVICE.get(cause.sqlstate or '', '')}", 1)


def _end(message: str, status: int) -> NoReturn:
    print(f"admitone: {message}", file=sys.stderr)
    sys.exit(status)
