"""The machine and the programs of a run: figures mean nothing without them."""

import os
import platform
from pathlib import Path

import psycopg
import redis
from psycopg.rows import TupleRow

from benchmarks.load import runner

_GIB = 1024 * 1024  # in KiB, the unit of /proc/meminfo


def describe(database: psycopg.Connection[TupleRow], results: redis.Redis) -> dict[str, str]:
    """Return the machine's parts and the programs' versions, by name."""
    valkey = results.info("server")
    assert isinstance(valkey, dict), "a blocking client answers at once"
    (postgresql,) = database.execute("SHOW server_version").fetchone() or ("unknown",)
    return {
        "cpu": _line_of("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_line_of('/proc/meminfo', 'MemTotal').split()[0]) / _GIB:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": postgresql,
        "valkey": str(valkey.get("valkey_version", valkey["redis_version"])),
        "generator": runner.tool(),
    }


def _line_of(path: str, name: str) -> str:
    """Return the value of the first line `name: value`; empty if no line has that name."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
