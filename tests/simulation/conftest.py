"""Quiet for the simulation: planted bugs make the service log what it should, at length."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """Keep the log to itself, for whoever wants to read it."""
    with capture_logs() as entries:
        yield entries
