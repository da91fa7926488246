"""Short runs of the fault harness on other servers, and with faults of what PostgreSQL keeps."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.stack.programs import CHECKOUT
from tests.chaos import rabbitmq
from tests.chaos.disk import Disk
from tests.faults.chaos_runs import run

pytestmark = pytest.mark.timeout(300)
SHORT = ("--minutes", "0.4", "--backlog", "0")
_HOLD_A_DISK = """
import pathlib, sys, tests.chaos.disk
with tests.chaos.disk.Disk(pathlib.Path(sys.argv[1])) as disk:
    print(disk.small, flush=True)
    sys.stdin.read()
"""


def test_a_run_on_older_servers_breaks_no_promise() -> None:
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    redis = shutil.which("redis-server")
    if not postgres or redis is None:
        pytest.skip("no other PostgreSQL or no redis-server is installed: this lane was not run")
    place = ("--postgres", str(postgres[0]), "--redis", redis)
    status, report = run(*place, "--seed", "2", "--faults", "5", *SHORT)

    assert report["violations"] == []
    assert status == 0
    assert f"PostgreSQL {postgres[0].parent.name}." in report["servers"]
    assert "Redis" in report["servers"]
    assert report["faults"] >= 1


def test_a_run_with_rabbitmq_breaks_no_promise() -> None:
    broker = os.environ.get("ADMITONE_TEST_AMQP_URL")
    if not broker or not rabbitmq.is_usable():
        pytest.skip("no ADMITONE_TEST_AMQP_URL, or no right to rabbitmqctl: this lane was not run")
    status, report = run("--broker", broker, "--only", "RabbitMQ", "--seed", "3", "--faults", "6", *SHORT)

    assert report["violations"] == []
    assert status == 0
    assert "RabbitMQ" in report["servers"]
    assert report["faults"] >= 1


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.chaos", "--broker", "http://127.0.0.1"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("chaos: a broker is named like amqp://")
    assert list(tmp_path.iterdir()) == []


def test_a_failover_breaks_no_promise() -> None:
    status, report = run("--only", "standby promoted", "--seed", "4", "--faults", "2", *SHORT)

    assert report["violations"] == []
    assert status == 0
    assert report["faults"] >= 1


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    found = Disk(tmp_path / "disk")
    with found:
        (found.folder / "file").write_bytes(b"kept")
        if not found.small:
            pytest.skip("no file system can be mounted here: no disk was full")
        found.fill()
        with pytest.raises(OSError, match="No space left") as refused:
            (found.folder / "more").write_bytes(bytes(100_000))
        assert refused.value.errno == errno.ENOSPC
        found.make_room()
        (found.folder / "more").write_bytes(bytes(100_000))
    return found


def test_the_files_of_a_disk_stay(disk: Disk) -> None:
    assert (disk.folder / "file").read_bytes() == b"kept"
    assert not os.path.ismount(disk.folder)


@pytest.mark.usefixtures("disk")
def test_a_killed_run_leaves_no_mount(tmp_path: Path) -> None:
    folder = tmp_path / "of another run"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _HOLD_A_DISK, str(folder)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        process.kill()

    assert folder.is_dir()
    assert not os.path.ismount(folder)


@pytest.mark.usefixtures("disk")
def test_a_full_disk_breaks_no_promise() -> None:
    status, report = run("--only", "disk full", "--seed", "5", "--faults", "4", *SHORT)

    assert report["violations"] == []
    assert status == 0
    assert {fault["name"] for fault in report["struck"]} == {"disk full", "disk full at its log"}
