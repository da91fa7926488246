"""Puts a load on: with wrk where it is installed, else with the project's own generator."""

import shutil
from pathlib import Path

from benchmarks.load import generator, wrk
from benchmarks.load.load import Load, LoadResult


def run(load: Load, folder: Path) -> LoadResult:
    """Put the load on and return what was heard; `folder` takes what that needs on disk.

    Open loops are the project's own generator's: wrk knows only closed ones.
    """
    if load.per_second is None and tool() == wrk.NAME:
        return wrk.run(load, folder)
    return generator.run(load)


def tool() -> str:
    """Return what puts closed loops on: wrk, or the project's own generator."""
    return wrk.NAME if shutil.which(wrk.NAME) else "own generator"
