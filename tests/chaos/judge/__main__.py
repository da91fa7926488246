"""Takes the time of the judge on a generated history: `python -m tests.chaos.judge`."""

import time
from collections.abc import Iterator

import typer

from tests.chaos import report
from tests.chaos.judge import faithful, judge
from tests.chaos.judge.evidence import EventEvidence


def measure(operations: int = 1_000_000) -> None:
    """Judge so many operations of faithful events, and print the seconds that the judge took."""
    generating_seconds = 0.0

    def events() -> Iterator[EventEvidence]:
        nonlocal generating_seconds
        generated = faithful.events(operations)
        while True:
            began = time.perf_counter()
            event = next(generated, None)
            generating_seconds += time.perf_counter() - began
            if event is None:
                return
            yield event

    verdict = judge.judge(events())
    seconds = verdict.seconds - generating_seconds
    print(  # noqa: T201
        f"{verdict.operations:,} operations at {verdict.events:,} events, {verdict.commands:,} commands, "
        f"{verdict.decided_again:,} of them decided again: judged in {seconds:.1f} s "
        f"on {', '.join(report.machine().values())}"
    )
    raise typer.Exit(1 if verdict.violations else 0)


if __name__ == "__main__":
    typer.run(measure)
