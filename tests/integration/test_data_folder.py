"""The data folder where it cannot be used: held, broken, not ours, or too long for a socket."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ops import embedded
from ops.embedded import EmbeddedError, data_dir
from tests.integration.clusters import processes_of, query, stopped_in_order, valkey

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data folder that was stopped in order."""
    return stopped_in_order(tmp_path_factory.mktemp("whole"))


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    data = embedded.prepare(tmp_path / "data")
    with (
        embedded.locked(data),
        pytest.raises(EmbeddedError, match=f"in use by a running stack .process {os.getpid()}.$"),
        embedded.running(data),
    ):
        pass


@pytest.mark.parametrize("name", ["with a space", "ümlaut", "d" * 120, "a?b#c%20"])
def test_an_odd_path_has_sockets_below_tmp(tmp_path: Path, name: str) -> None:
    data = tmp_path / name / "data"
    with embedded.running(data) as servers:
        sockets = data_dir.sockets(data)
        assert sockets.is_relative_to("/tmp")  # noqa: S108  # what is tested
        assert not sockets.is_relative_to(data)
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert query(servers, "SELECT 1") == [(1,)]
        with valkey(servers) as client:
            assert client.ping()
    assert not sockets.exists()


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "with a space"
    sockets = data_dir.sockets(data)
    sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedError, match="must be a folder of this user"), embedded.running(data):
            pass
    finally:
        sockets.unlink()


def broken(data: Path, whole: Path, how: str) -> None:
    match how:
        case "a file":
            data.write_text("precious")
        case "below a file":
            data.parent.joinpath("file").write_text("precious")
        case "a project":
            (data / "docs").mkdir(parents=True)
            (data / ".git").mkdir()
        case "no database":
            (data / "postgres").mkdir(parents=True)
            (data / "postgres" / "precious").write_text("precious")
        case "another major":
            (data / "postgres").mkdir(parents=True)
            (data / "postgres" / "PG_VERSION").write_text("15\n")
        case "garbage":
            (data / "postgres").mkdir(parents=True)
            (data / "postgres" / "PG_VERSION").write_bytes(b"\xff\x00\xfe")
        case "lost control file":
            shutil.copytree(whole, data, symlinks=True)
            (data / "postgres" / "global" / "pg_control").unlink()
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("a file", "cannot be the data folder: file exists"),
        ("below a file", "cannot be the data folder: not a directory"),
        ("a project", "it has files of something else, such as docs; name an empty or a new folder"),
        ("no database", "holds no PostgreSQL database (no PG_VERSION); move it away"),
        ("another major", "was made by PostgreSQL '15', but this is PostgreSQL 18"),
        ("garbage", "cannot be read"),
        ("lost control file", "postgres ended at start (exit status 2)"),
    ],
)
def test_a_broken_data_folder_is_left_alone(tmp_path: Path, whole: Path, how: str, line: str) -> None:
    data = tmp_path / "data"
    broken(data, whole, how)
    place = tmp_path / "file" / "data" if how == "below a file" else data
    before = {path for path in tmp_path.rglob("*") if "log" not in path.parts}
    with pytest.raises(EmbeddedError) as caught, embedded.running(place):
        pass
    assert line.lower() in str(caught.value).splitlines()[0].lower()
    assert before <= set(tmp_path.rglob("*"))
    assert processes_of(data) == []


def without_privilege(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as this user, for whom file modes count: root loses what makes it root."""
    plain = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--") if os.geteuid() == 0 else ()
    return subprocess.run([*plain, *command], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_a_folder_that_may_not_be_written_is_said_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as place:
        data = Path(place)
        data.chmod(0o500)
        imports = "import sys; from pathlib import Path; from ops.embedded import data_dir"
        code = f"{imports}; data_dir.prepare(Path(sys.argv[1]))"
        done = without_privilege(sys.executable, "-c", code, str(data))
        expected = f"EmbeddedError: {data} cannot be the data folder: this user may not read and write there"
        assert done.stderr.splitlines()[-1].endswith(expected)
        data.chmod(0o700)
