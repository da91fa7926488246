"""The open files of a process: their limit, and the three standard streams.

Each connection is an open file, and the usual limit of 1,024 is too low for a crowd.
"""

import os
import resource
import sys
from pathlib import Path

_WANTED = 65_536


def raise_limit() -> int:
    """Raise the limit for this process and its children, if possible; return the files it may still open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _WANTED
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted) - len(list(Path("/dev/fd").iterdir()))


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Else a connection or a file would get its number, and what is written to the stream; and Python has no
    object for it, so that a log that asks for its terminal would end the process.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
