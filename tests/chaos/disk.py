"""A disk of PostgreSQL's own: a tmpfs that is full whenever the harness says so.

Mounting needs the rights of root. Where it is refused, PostgreSQL's files are in the same folder on the
machine's disk, and `small` is False. Only this process and its children see the mount, so the kernel takes it
away with the last of them, even after SIGKILL.
"""

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TRIES_MAX = 50
"""A write that comes between measuring and filling makes the kernel refuse."""
ROOM = "50%"
"""Of the machine's memory; pages are only taken as they are written."""
_OWN_MOUNTS = 0x00020000
"""The flag CLONE_NEWNS of unshare(2)."""


class Disk:
    """The folder of all clusters of a run; its files stay at the end, on the machine's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.small = False

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700)
        if os.geteuid() == 0 and _leave_other_mounts():
            self.small = _run("mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "chaos", self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.small:
            return
        kept = self.folder.with_name(f"{self.folder.name}.kept")
        copied = _run("cp", "-a", self.folder, kept)
        if _run("umount", self.folder) and copied:
            with suppress(OSError):
                self.folder.rmdir()
                kept.rename(self.folder)

    def fill(self) -> None:
        """Leave no free page: from now on no file can grow."""
        for _ in range(TRIES_MAX):
            found = os.statvfs(self.folder)
            if self._resize(f"{(found.f_blocks - found.f_bfree) * found.f_frsize}"):
                return
        raise AssertionError("the disk cannot be filled")

    def make_room(self) -> None:
        """Let files grow again."""
        assert self._resize(ROOM), "the disk cannot be given its room back"

    def _resize(self, size: str) -> bool:
        return _run("mount", "-o", f"remount,size={size}", self.folder)


def _leave_other_mounts() -> bool:
    """Let this process have mounts of its own from now on; return False if the kernel refuses."""
    return ctypes.CDLL(None).unshare(_OWN_MOUNTS) == 0 and _run("mount", "--make-rprivate", "/")


def _run(*argv: str | Path) -> bool:
    return subprocess.run([*map(str, argv)], check=False, capture_output=True).returncode == 0
