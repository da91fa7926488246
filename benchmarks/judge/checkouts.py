"""The checkouts of the versions: this one as it is, and a revision in a folder of its own."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import BenchmarkError
from ops import child_processes
from ops.stack.programs import CHECKOUT

RUN_SECONDS_MAX = 600.0
"""Installing packages takes seconds, or minutes where none is cached."""
PROGRAM = "admitone"


def described() -> str:
    """Return the name of this checkout's commit, with a mark if files differ from it."""
    return _git("describe", "--always", "--dirty")


def commit_of(revision: str) -> str:
    """Return the name of a revision's commit; raises `BenchmarkError` if there is none."""
    return _git("rev-parse", "--verify", "--short", "--end-of-options", f"{revision}^{{commit}}")


def export(commit: str, folder: Path) -> Path:
    """Write a commit's files into `folder` and install its packages there; return the checkout.

    The repository keeps no record of the export, so nothing is left when the folder is removed.
    """
    archive, checkout = folder / "checkout.tar", folder / "checkout"
    checkout.mkdir()
    _git("archive", f"--output={archive}", commit)
    log, environment = folder / "install.log", processes.environment()
    run(["tar", "-xf", str(archive)], checkout, environment, log)
    archive.unlink()
    run([str(checkout / PROGRAM), "--version"], checkout, environment, log)
    return checkout


def run(argv: Sequence[str], checkout: Path, environment: Mapping[str, str], log: Path) -> None:
    """Run a program to its end; raises `BenchmarkError` with the end of its log if it fails."""
    process = child_processes.spawn(argv, log=log, env=environment, cwd=checkout)
    try:
        status = process.wait(RUN_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{' '.join(argv)} does not end{child_processes.tail(log)}") from None
    finally:
        if process.poll() is None:  # its children belong to its session
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status != 0:
        raise BenchmarkError(f"{' '.join(argv)} failed (exit status {status}){child_processes.tail(log)}")


def _git(*argv: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program by name, its arguments are checked or our own
            ["git", "-C", str(CHECKOUT), *argv],  # noqa: S607
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise BenchmarkError("git is needed to compare with another version") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"git {argv[0]}: {error.stderr.strip()}") from error
    return done.stdout.strip()
