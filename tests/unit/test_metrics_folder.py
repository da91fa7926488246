"""The files in which a process counts: they have their room on the disk before anything is counted."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def _start(folder: Path, prepare: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "import shared.metrics"],
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


def test_folder_without_room_is_named(tmp_path: Path) -> None:
    bound = (1 << 17, 1 << 17)
    ended = _start(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, bound))
    assert f"ADMITONE_METRICS_FOLDER: {tmp_path}: File too large" in ended.stderr
    assert not list(tmp_path.iterdir())
