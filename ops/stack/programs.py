"""The stack's programs: API processes and workers, as children that a later start can find."""

import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ops import child_processes
from ops.child_processes import Child

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = "ADMITONE_DATA"
"""The variable by which a later start recognises a child of the stack in this data folder."""
GATE = "ADMITONE_GATE"
KEY_VARIABLE = "ADMITONE_ADMIN_KEY"
DIGEST_KEY_VARIABLE = "ADMITONE_SECRET_KEY"
LEFTOVER_SECONDS_MAX = 5.0


class Gate:
    """Makes programs wait after their imports, which take longest, until the database is ready."""

    def __init__(self) -> None:
        self._end, self._handle = os.pipe()

    def fileno(self) -> int:
        """Return the descriptor at which programs wait."""
        return self._end

    def open(self, programs: int) -> None:
        """Let this many programs pass."""
        os.write(self._handle, b"." * programs)

    def close(self) -> None:
        """Close the gate; a program that still waits ends."""
        os.close(self._handle)
        os.close(self._end)


def wait_at_gate() -> None:
    """Wait until the stack lets this program pass; return at once if it was started without a gate."""
    if descriptor := os.environ.pop(GATE, None):
        passed = os.read(int(descriptor), 1)
        os.close(int(descriptor))
        if not passed:
            sys.exit("the stack ended before it was ready")


class Program(Child):
    """One API process or worker of a stack."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        data: Path,
        pass_fds: Collection[int] = (),
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(name, data / "log")
        self._argv = [sys.executable, "-P", "-m", "ops.cli", *argv]
        self._pass_fds = pass_fds
        self._secrets = secrets
        self._data = data

    def start(self, gate: Gate | None = None) -> None:
        """Start the program with its environment, and behind the gate if there is one."""
        behind = {GATE: str(gate.fileno())} if gate else {}
        self._log_start = child_processes.size(self.log)
        self.process = child_processes.spawn(
            [*child_processes.dies_with_parent(signal.SIGTERM), *self._argv],
            log=self.log,
            env={**_environment(self._data), **self._secrets, **behind},
            cwd=CHECKOUT,
            pass_fds=[*self._pass_fds, *map(int, behind.values())],
        )


def _environment(data: Path) -> Mapping[str, str]:
    """Return this process's environment without the admin key, which only API processes need."""
    inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    return {**inherited, MARK: str(data), "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


def stop_leftovers(data: Path) -> None:
    """End the programs of an earlier stack of this data folder; raises `TimeoutError` if one stays."""

    def is_of_this_folder(pid: int, argv: Sequence[str]) -> bool:
        return "ops.cli" in argv and child_processes.environment(pid).get(MARK) == str(data)

    child_processes.stop_found(is_of_this_folder, signal.SIGTERM, LEFTOVER_SECONDS_MAX)
