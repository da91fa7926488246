"""The errors that the command line tells in a line; each says what a person can do."""

from typing import ClassVar


class ExpectedError(Exception):
    """An error without a traceback: its message is for a person, and its class has the exit status."""

    exit_status: ClassVar[int] = 2
    """2 when the caller must change something, 1 when the running failed."""
