"""The number that tells a process from every other process, of any container on any machine.

The number is a digest of the machine's boot, the PID namespace, the process's id and its start. So a process
can compute the number of every process that it sees in `/proc`.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

NUMBER_BITS = 31
"""A number fits PostgreSQL's `integer`."""

_PROC = Path("/proc")
_START = 19
"""The place of the start time in `/proc/<pid>/stat`, counted behind the name in parentheses (proc(5))."""


def own_number() -> int:
    """Return the number of this process; a random one where there is no `/proc`."""
    try:
        return _number(os.getpid())
    except OSError:
        return secrets.randbits(NUMBER_BITS)


def visible_numbers() -> Iterator[int]:
    """Yield the number of each process that this one sees: in a container those of the container."""
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            try:
                yield _number(int(folder.name))
            except OSError:  # the process has ended meanwhile
                continue


def _number(pid: int) -> int:
    boot = (_PROC / "sys/kernel/random/boot_id").read_bytes()
    namespace = (_PROC / "self/ns/pid").readlink().name.encode()
    start = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[_START]
    digest = hashlib.blake2b(b"%b/%b/%d/%b" % (boot, namespace, pid, start), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> (32 - NUMBER_BITS)
