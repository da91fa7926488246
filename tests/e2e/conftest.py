"""Other versions of the project, for the tests of two versions side by side."""

import fcntl
import os
from pathlib import Path

import pytest

from benchmarks.judge import checkouts
from benchmarks.processes import BenchmarkError

PROMISED = "c2d92b9"
BEFORE_THE_PROMISE = "cfbfc26"


@pytest.fixture(scope="session")
def before_the_promise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of a version before the promise."""
    return _version(BEFORE_THE_PROMISE, tmp_path_factory)


@pytest.fixture(scope="session")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the version with which the promise of upgrades without a pause begins."""
    return _version(PROMISED, tmp_path_factory)


def _version(commit: str, factory: pytest.TempPathFactory) -> Path:
    """Return the checkout of a commit with its packages for operation; all workers of a run share it."""
    worker = factory.getbasetemp()
    run = worker.parent if "PYTEST_XDIST_WORKER" in os.environ else worker
    made = run / commit
    with (run / f"{commit}.lock").open("w") as lock, pytest.MonkeyPatch.context() as environment:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment.setenv("UV_NO_DEFAULT_GROUPS", "1")
        try:
            if not made.exists():
                made.symlink_to(checkouts.export(checkouts.commit_of(commit), factory.mktemp(commit)))
        except BenchmarkError as error:
            if "install" in str(error):
                raise
            pytest.skip(f"the repository's history has no {commit}: this lane was not run ({error})")
    return made.resolve()
