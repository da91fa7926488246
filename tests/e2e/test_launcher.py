"""The launcher on machines that lack something, and on those that lack nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machines import CHECKOUT, ECHO, PLAIN, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_installed_checkout_starts_at_once_in_the_callers_folder(machine: Machine) -> None:
    machine.is_installed()
    began = time.monotonic()
    arguments = ["up", "--data", "with space", "", "*"]
    here = str(machine.checkout)
    assert machine.echo(*arguments) == [str(machine.place), arguments, str(machine.venv), here]
    assert time.monotonic() - began < 1
    assert machine.synced() == 0


def test_it_is_found_through_symbolic_links(machine: Machine) -> None:
    machine.is_installed()
    (machine.place / "one").symlink_to(Path("a checkout") / "admitone")
    (machine.bin / "admitone").symlink_to(machine.place / "one")
    done = subprocess.run(
        ["sh", "-c", "exec admitone status"],  # noqa: S607  # the machine's PATH
        env=machine.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["/", ["status"], str(machine.venv), str(machine.checkout)]


def test_a_first_start_installs_and_a_second_does_not(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    status, out, err = machine.run("up")
    assert (status, err) == (0, f"admitone: installing into {machine.venv} (once)\n")
    assert json.loads(out)[:2] == [str(machine.place), ["up"]]
    assert f"sync no-cache= compile=1 in={machine.checkout}\n" in machine.calls.read_text()
    assert machine.run("up")[2] == ""
    assert machine.synced() == 1


def test_a_changed_lock_file_is_installed(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    machine.is_installed()
    (machine.checkout / "uv.lock").write_text("version = 2\n")
    assert machine.run("up")[0] == 0
    assert machine.synced() == 1


def test_a_venv_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    machine.is_installed()
    for path in (machine.venv / "bin").glob("python*"):
        path.unlink()
        path.symlink_to("/nonexistent")
    assert machine.run("up")[0] == 0
    assert machine.synced() == 1


def test_two_first_starts_at_once_install_once(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    with machine.start("one", UV_SLEEP="0.5") as one, machine.start("two", UV_SLEEP="0.5") as two:
        said = [process.communicate(timeout=60) for process in (one, two)]
    assert [json.loads(out)[1] for out, _ in said] == [["one"], ["two"]]
    assert sorted(err.count("waiting for another start to finish installing") for _, err in said) == [0, 1]
    assert machine.synced() == 1


def test_a_first_start_that_was_killed_is_done_again_from_the_beginning(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    with machine.start("up", UV_SLEEP="30") as killed:
        deadline = time.monotonic() + 20
        while not machine.synced():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (machine.venv / "half a package").touch()
        os.killpg(killed.pid, signal.SIGKILL)
    assert machine.run("up")[0] == 0
    assert machine.synced() == 2
    assert not (machine.venv / "half a package").exists()
    assert not (machine.venv / "unfinished").exists()


def test_a_home_that_is_missing_is_no_obstacle(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    assert machine.run("up", HOME="/proc/none")[0] == 0
    assert "sync no-cache=1 " in machine.calls.read_text()


def test_packages_that_cannot_be_installed_are_said(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    status, out, err = machine.run("up", UV_STATUS="2")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "admitone: the packages cannot be installed; is the package index reachable? (see above)"
    )
    assert machine.run("up")[0] == 0


def test_uv_is_installed_or_the_index_is_named(machine: Machine) -> None:
    machine.has_python()
    machine.has_uv()
    pip = machine.place / "pip.conf"
    pip.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 0\n")
    status, _, err = machine.run("up", UV_VERSION="0.1.44", PIP_CONFIG_FILE=str(pip))
    assert status == 1
    assert "No matching distribution found for uv" in err
    assert (
        err.splitlines()[-1]
        == "admitone: uv cannot be installed; is the package index reachable? (see above)"
    )


def test_a_python_without_venv_is_said_with_the_package_to_install(machine: Machine) -> None:
    machine.has_python(refuses="ensurepip")
    status, _, err = machine.run("up")
    assert status == 1
    assert err.splitlines()[-1] == (
        f"admitone: {machine.bin}/python3 has no venv module; install it "
        "(Debian and Ubuntu: apt install python3-venv), or install uv, and start again"
    )


def test_a_missing_python_is_said(machine: Machine) -> None:
    assert machine.run("up") == (
        1,
        "",
        "admitone: Python 3.11 or later is needed; found no Python (ADMITONE_PYTHON=<path> names another)\n",
    )


def test_a_python_that_is_too_old_is_said(machine: Machine) -> None:
    machine.has("python3", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.10\nexit 1\n')
    status, _, err = machine.run("up")
    assert status == 1
    assert err == (
        f"admitone: Python 3.11 or later is needed; found Python 3.8.10 at {machine.bin}/python3 "
        "(ADMITONE_PYTHON=<path> names another)\n"
    )


def test_an_old_python3_is_passed_over_for_a_newer_one(machine: Machine) -> None:
    machine.has_python()
    (machine.bin / "python3").rename(machine.bin / "python3.12")
    machine.has("python3", "#!/bin/sh\nexit 1\n")
    machine.has_uv()
    assert machine.run("up")[0] == 0


def test_a_python_can_be_named(machine: Machine) -> None:
    machine.has_uv()
    assert machine.run("up", ADMITONE_PYTHON=sys.executable)[0] == 0
    shutil.rmtree(machine.venv)
    assert machine.run("up", ADMITONE_PYTHON="nowhere")[2] == (
        "admitone: ADMITONE_PYTHON is nowhere, which is no program\n"
    )


@pytest.fixture
def foreign(machine: Machine) -> Iterator[tuple[str, ...]]:
    """Make the checkout one that this user may not change, by way of a command prefix; usable afterwards."""
    yield PLAIN if os.geteuid() == 0 else ()
    for path in (machine.checkout, machine.venv):
        if path.exists():
            path.chmod(0o755)


def write_protect(machine: Machine) -> None:
    for path in (machine.checkout, machine.venv, machine.checkout / "uv.lock"):
        if path.exists():
            path.chmod(0o555)


def test_a_user_who_may_not_write_runs_an_installed_checkout(
    machine: Machine, foreign: tuple[str, ...]
) -> None:
    machine.is_installed()
    write_protect(machine)
    status, out, err = machine.run("up", prefix=foreign)
    assert (status, err) == (0, "")
    assert json.loads(out)[1] == ["up"]


@pytest.mark.parametrize("installed", [False, True])
def test_only_a_user_who_may_write_installs(
    machine: Machine, foreign: tuple[str, ...], *, installed: bool
) -> None:
    machine.has_python()
    if installed:
        machine.is_installed()
        (machine.checkout / "uv.lock").write_text("version = 2\n")
    write_protect(machine)
    status, _, err = machine.run("up", prefix=foreign)
    assert status == 1
    assert err == (
        f"admitone: {machine.venv} is missing or older than uv.lock, and this user may not change it; "
        f"start {machine.checkout}/admitone once as the owner of the folder\n"
    )


def test_a_python_of_another_user_is_said(machine: Machine, foreign: tuple[str, ...]) -> None:
    machine.has_python()
    machine.is_installed()
    python = machine.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent")
    write_protect(machine)
    status, _, err = machine.run("up", prefix=foreign)
    assert status == 1
    assert err.startswith(f"admitone: this user cannot run {python}; remove {machine.venv}")


def command_line(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ADMITONE_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ops.cli", *arguments],
        env={**mine, "PYTHONPATH": str(CHECKOUT), **variables},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert command_line("--version").stdout == f"admitone {project['version']}\n"


def test_a_missing_setting_is_a_line_and_not_a_traceback() -> None:
    done = command_line("migrate")
    assert (done.returncode, done.stderr) == (2, "admitone: ADMITONE_DATABASE_URL: is not set\n")


def test_an_unreachable_database_is_a_line_too() -> None:
    done = command_line("migrate", ADMITONE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("admitone: the database: connection failed: ")


def test_a_url_that_cannot_work_is_one_line() -> None:
    done = command_line("migrate", ADMITONE_DATABASE_URL="postgresql://u:secret@h/d?schema=public")
    assert (done.returncode, done.stderr) == (
        2,
        "admitone: ADMITONE_DATABASE_URL: has parameters that no part of AdmitOne reads: schema\n",
    )


def test_the_help_names_the_launchers_commands() -> None:
    said = " ".join(command_line("--help").stdout.split())
    assert said.endswith("there are also test, bench, chaos and check; each takes --help.")


@pytest.mark.parametrize(
    ("command", "module"), [("test", "pytest"), ("bench", "benchmarks"), ("chaos", "tests/chaos")]
)
def test_a_developers_command_gets_its_arguments(machine: Machine, command: str, module: str) -> None:
    machine.is_installed()
    (machine.checkout / "tests").mkdir()
    (machine.checkout / f"{module}.py").write_text(ECHO)
    arguments = ["-k", "not this", ""]
    folder = machine.checkout if command == "test" else machine.place
    here = str(machine.checkout)
    assert machine.echo(command, *arguments) == [str(folder), arguments, str(machine.venv), here]


@pytest.mark.parametrize(("command", "file"), [("test", "pytest.py"), ("bench", "benchmarks.py")])
def test_a_developers_command_hands_on_its_status(machine: Machine, command: str, file: str) -> None:
    machine.is_installed()
    (machine.checkout / file).write_text("raise SystemExit(3)")
    assert machine.run(command) == (3, "", "")


def test_the_check_is_the_one_of_ci(machine: Machine) -> None:
    machine.is_installed()
    machine.has_bash()
    (machine.checkout / ".ci").mkdir()
    (machine.checkout / ".ci" / "run").write_text('printf "%s|" "$@"; exit 3')
    assert machine.run("check", "types", "not this") == (3, "types|not this|", "")


def test_an_unknown_check_names_the_known_ones() -> None:
    program = ["bash", str(CHECKOUT / ".ci" / "run")]
    unknown = subprocess.run([*program, "spelling"], capture_output=True, text=True, check=False)
    known = subprocess.run([*program, "--help"], capture_output=True, text=True, check=False)

    assert (unknown.returncode, known.returncode) == (2, 0)
    for step in ("format", "types", "words", "tests"):
        assert step in unknown.stderr
        assert step in known.stdout
