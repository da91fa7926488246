"""The files in which a process counts: they have their room on the disk before anything is counted."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_SHOW = "from shared import metrics; print(metrics.show().decode())"


def _start(
    folder: Path, prepare: Callable[[], None] | None = None, program: str = "import shared.metrics"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ADMITONE_METRICS_FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
    )


def test_files_have_their_room(tmp_path: Path) -> None:
    assert _start(tmp_path).returncode == 0
    sizes = [(file.stat().st_blocks * 512, file.stat().st_size) for file in tmp_path.iterdir()]
    assert len(sizes) == 3
    assert all(room >= size >= 1 << 18 for room, size in sizes)


def test_an_ended_process_keeps_what_it_used(tmp_path: Path) -> None:
    other = tmp_path / "other_1.db"
    unused = tmp_path / "counter_999999999.db"  # its process ended before it counted
    for file in (other, unused):
        file.write_bytes(bytes(1 << 18))
    for _ in range(3):
        assert _start(tmp_path, program="from shared import metrics; metrics.accepted.inc(7)").returncode == 0
    sizes = sorted(file.stat().st_size for file in tmp_path.iterdir())
    assert sizes[-4:] == [1 << 18] * 4, "the last process has its room, and the other file was left alone"
    assert sum(sizes[:-4]) < 1 << 16
    assert "admitone_commands_accepted_total 21.0" in _start(tmp_path, program=_SHOW).stdout


def test_folder_without_room_is_named(tmp_path: Path) -> None:
    bound = (1 << 17, 1 << 17)
    ended = _start(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, bound))
    assert f"ADMITONE_METRICS_FOLDER: {tmp_path}: File too large" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_gauges_of_an_ended_process_do_not_count(tmp_path: Path) -> None:
    ended = _start(tmp_path, program="from shared import metrics; metrics.connections.set(7)")
    assert ended.returncode == 0
    (gauges,) = tmp_path.glob("gauge_*")
    gauges.rename(tmp_path / "kept")
    stays = tmp_path / f"{gauges.stem}.db"
    stays.mkdir()  # what this process may not remove, root included
    assert "admitone_connections 0.0" in _start(tmp_path, program=_SHOW).stdout
    stays.rmdir()
    (tmp_path / "kept").rename(gauges)
    assert "admitone_connections 0.0" in _start(tmp_path, program=_SHOW).stdout
    assert not gauges.exists()
