"""The limit of open files: each connection is one, and the usual limit of 1,024 is too low for a crowd."""

import resource
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
