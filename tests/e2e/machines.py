"""A machine for the launcher: a checkout, a PATH with what every system has, and what a test adds to it."""

import json
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "cp", "dirname", "mkdir", "mv", "readlink", "rm", "sleep", "tail")
PLAIN = (str(shutil.which("setpriv")), "--inh-caps=-all", "--bounding-set=-all", "--")
"""Takes from root what makes it root: file modes count."""
ECHO = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:], sys.prefix, sys.path[0]]))"
UV = """#!/bin/sh
# Stands in for uv, and for the package index behind it.
echo "$1 no-cache=${UV_NO_CACHE:-} compile=${UV_COMPILE_BYTECODE:-} in=$PWD" >>"$UV_CALLS"
case $1 in
    --version) echo "uv ${UV_VERSION:-0.99.1 (1234abcd 2026-01-01)}" ;;
    venv) for last; do :; done; exec "$UV_PYTHON_REAL" -I -m venv --without-pip "$last" ;;
    sync) sleep "${UV_SLEEP:-0}"; exit "${UV_STATUS:-0}" ;;
    *) exit "${UV_STATUS:-0}" ;;
esac
"""


class Machine:
    """A checkout, a PATH with nothing but the tools every system has, and a home."""

    def __init__(self, place: Path) -> None:
        self.place, self.checkout, self.bin = place, place / "a checkout", place / "bin"
        self.calls = place / "uv-calls"
        (self.checkout / "ops").mkdir(parents=True)
        shutil.copy2(CHECKOUT / "admitone", self.checkout)
        (self.checkout / "uv.lock").write_text("version = 1\n")
        (self.checkout / "ops" / "cli.py").write_text(ECHO)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    @property
    def venv(self) -> Path:
        return self.checkout / ".venv"

    def has(self, name: str, script: str) -> None:
        """Put a program on the PATH."""
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)

    def has_bash(self) -> None:
        (self.bin / "bash").symlink_to(str(shutil.which("bash")))

    def has_python(self, *, refuses: str = "nothing at all") -> None:
        """Put this Python on the PATH; a wrapper refuses what a stripped one could not do."""
        python = shlex.quote(sys.executable)
        script = f'#!/bin/sh\ncase "$*" in *{refuses!r}*) exit 1 ;; esac\nexec {python} "$@"\n'
        self.has("python3", script)

    def has_uv(self) -> None:
        self.has("uv", UV)

    def is_installed(self) -> None:
        """Make what a first start leaves."""
        venv.create(self.venv, symlinks=True)
        shutil.copy(self.checkout / "uv.lock", self.venv / "admitone.lock")

    def environment(self, **variables: str) -> dict[str, str]:
        home = {"HOME": str(self.place), "PATH": str(self.bin), "PYTHONDONTWRITEBYTECODE": "1"}
        uv = {"UV_CALLS": str(self.calls), "UV_PYTHON_REAL": sys.executable}
        return {**home, **uv, **variables}

    def start(
        self, *arguments: str, prefix: tuple[str, ...] = (), **variables: str
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*prefix, str(self.checkout / "admitone"), *arguments],
            env=self.environment(**variables),
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> tuple[int, str, str]:
        """Run the launcher; return its status, what it said on stdout and on stderr."""
        with self.start(*arguments, prefix=prefix, **variables) as process:
            out, err = process.communicate(timeout=60)
            return process.returncode, out, err

    def echo(self, *arguments: str) -> list[object]:
        """Return what the command line got."""
        status, out, err = self.run(*arguments)
        assert status == 0, err
        return list(json.loads(out))

    def synced(self) -> int:
        """How often uv has synced."""
        return self.calls.read_text().count("sync ") if self.calls.exists() else 0
