"""Takes the time of reading and judging a generated history: `python -m tests.chaos.judge`."""

import tempfile
from pathlib import Path

import psycopg
import typer

from ops import embedded
from ops.maintenance import schema
from tests.chaos import report
from tests.chaos.database import TRIGGERS
from tests.chaos.judge import evidence, faithful, judge, tables


def measure(operations: int = 1_000_000) -> None:
    """Write so many operations of faithful events into tables, and print how long judging them takes."""
    with tempfile.TemporaryDirectory() as folder, embedded.running(Path(folder)) as servers:
        schema.upgrade(servers.database_url)
        with psycopg.connect(servers.database_url.replace("+psycopg", ""), autocommit=True) as session:
            session.execute(TRIGGERS)
            history = tables.write(session, faithful.events(operations))
            verdict = judge.judge(evidence.read(session, history))
    print(  # noqa: T201
        f"{verdict.operations:,} operations at {verdict.events:,} events, {verdict.commands:,} commands, "
        f"{verdict.decided_again:,} of them decided again: read and judged in {verdict.seconds:.1f} s "
        f"on {', '.join(report.machine().values())}"
    )
    raise typer.Exit(1 if verdict.violations else 0)


if __name__ == "__main__":
    typer.run(measure)
