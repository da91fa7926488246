"""The judge of the protocol has teeth: each planted bug is found, by a seed that is clean without it."""

import pytest

from tests.simulation.protocol import history
from tests.simulation.protocol.catalogue import BUGS, HISTORIES_MAX, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_in_the_protocol_is_found(bug: Bug) -> None:
    result = bug.find()

    assert result is not None, f"not found in {HISTORIES_MAX} histories"
    print(f"found by seed {result.seed}, broken: {sorted(result.numbers)}")  # noqa: T201 - shown by pytest -s
    clean = history.run(result.seed, bug.faults)
    assert clean.violations == [], clean
