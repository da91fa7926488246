"""The errors that the command line prints as one line, with the action that helps."""

from typing import ClassVar


class ExpectedError(Exception):
    """An error without a traceback: its message is for a person, and its class has the exit status."""

    exit_status: ClassVar[int] = 2
    """2 if the caller must change something, 1 if the program failed."""
