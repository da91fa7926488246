"""Other versions of the project, for the tests of two versions side by side."""

from pathlib import Path

import pytest

from benchmarks.judge import checkouts
from benchmarks.processes import BenchmarkError

PROMISED = "c2d92b9"
BEFORE_THE_PROMISE = "cfbfc26"


@pytest.fixture(scope="session")
def before_the_promise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of a version before the promise."""
    return _version("before", BEFORE_THE_PROMISE, tmp_path_factory)


@pytest.fixture(scope="session")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the version with which the promise of upgrades without a pause begins."""
    return _version("promised", PROMISED, tmp_path_factory)


def _version(name: str, commit: str, factory: pytest.TempPathFactory) -> Path:
    """Return the checkout of a commit with its packages installed."""
    try:
        return checkouts.export(checkouts.commit_of(commit), factory.mktemp(name))
    except BenchmarkError as error:
        if "install" in str(error):
            raise
        pytest.skip(f"the repository's history has no {commit}: this lane was not run ({error})")
