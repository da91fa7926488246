"""Runs a load: with wrk where it is installed, else with the project's own generator."""

import shutil
from pathlib import Path

from benchmarks.load import generator, wrk
from benchmarks.load.load import Load, LoadResult


def run(load: Load, folder: Path) -> LoadResult:
    """Run the load and return its result; `folder` takes the files that this needs.

    Open loops are run by the project's own generator: wrk has only closed loops.
    """
    if load.per_second is None and tool() == wrk.NAME:
        return wrk.run(load, folder)
    return generator.run(load)


def tool() -> str:
    """Return the name of the generator of closed loops: wrk, or the project's own."""
    return wrk.NAME if shutil.which(wrk.NAME) else "own generator"
