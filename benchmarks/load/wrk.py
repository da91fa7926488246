"""wrk as the load generator: one thread, a script that is written for each load."""

import json
import subprocess
from pathlib import Path

import msgspec

from benchmarks import cpu
from benchmarks.load.load import ERROR_STATUS_MIN, Load, LoadResult

NAME = "wrk"
ANSWER_SECONDS_MAX = 30
"""Slower answers are errors; no contestant lets a request wait this long."""
END_SECONDS_MAX = 60
"""The time that wrk may take beyond the load's own."""
_MARK = "heard "

_SCRIPT = """
wrk.method = {method}
wrk.body = {body}
{headers}
local paths = {{ {paths} }}
local ready, turn = {{}}, 0
{cycle}
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{mark}{{"requests":%d,"us":%d,"status":%d,"broken":%d,"p50":%d,"p95":%d,"p99":%d,"max":%d}}\\n',
        summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
"""
# Without a request function wrk builds its request once and never asks Lua again.
_CYCLE = """
init = function(args)
    for i, path in ipairs(paths) do ready[i] = wrk.format(nil, path) end
end
request = function()
    turn = turn % #ready + 1
    return ready[turn]
end
"""


class _Printed(msgspec.Struct, frozen=True):
    """The line that the script prints at the end; times are microseconds."""

    requests: int
    us: int
    status: int
    broken: int
    p50: int
    p95: int
    p99: int
    max: int


def run(load: Load, folder: Path) -> LoadResult:
    """Run wrk once and return the load's result."""
    path = folder / "load.lua"
    path.write_text(script(load), encoding="utf-8")
    argv = [NAME, "--threads", "1", "--connections", str(load.connections)]
    argv += ["--duration", f"{load.seconds}s", "--timeout", f"{ANSWER_SECONDS_MAX}s"]
    argv += ["--script", str(path), load.url + load.paths[0]]
    before = cpu.children_us()
    done = subprocess.run(  # noqa: S603 - a program by name, its arguments are the benchmark's own
        argv, check=True, capture_output=True, text=True, timeout=load.seconds + END_SECONDS_MAX
    )
    return msgspec.structs.replace(parse(done.stdout, load.expected), cpu_us=cpu.children_us() - before)


def script(load: Load) -> str:
    """Return the Lua script that sends the load's requests and prints the result."""
    headers = "\n".join(f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in load.headers.items())
    return _SCRIPT.format(
        method=_lua(load.method),
        body=_lua(load.body) if load.body else "nil",
        headers=headers,
        paths=", ".join(map(_lua, load.paths)),
        cycle=_CYCLE if len(load.paths) > 1 else "",
        mark=_MARK,
    )


def parse(output: str, expected: int) -> LoadResult:
    """Read the script's output; wrk tells apart only statuses below and from 400."""
    line = next(line for line in output.splitlines() if line.startswith(_MARK))
    printed = msgspec.json.decode(line.removeprefix(_MARK), type=_Printed)
    answers = printed.status if expected >= ERROR_STATUS_MIN else printed.requests - printed.status
    return LoadResult(
        answers=answers,
        errors=printed.requests - answers + printed.broken,
        seconds=printed.us / 1_000_000,
        p50_ms=printed.p50 / 1_000,
        p95_ms=printed.p95 / 1_000,
        p99_ms=printed.p99 / 1_000,
        max_ms=printed.max / 1_000,
    )


def _lua(text: str) -> str:
    """Quote a text of printable ASCII, of which Lua reads JSON's quoting."""
    assert text.isascii(), "Lua has no escapes for other characters"
    assert text.isprintable(), "likewise"
    return json.dumps(text)
