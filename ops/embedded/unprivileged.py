"""Runs the embedded servers for root as an unprivileged user, because PostgreSQL refuses to run as root.

There are two ways; the first that can run PostgreSQL's binary is taken:

1. as the user ``nobody`` with one capability, by which it reaches files in folders of any mode (a checkout
   in a home of mode 0700, a Python below ``/root``): on a host, under sudo and in Docker;
2. in a user namespace that shows root's own files as those of ``nobody``: in sandboxes with a single user.

An ordinary user needs neither way.
"""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.errors import ExpectedError

OVERFLOW_ID = 65_534
"""The kernel's id for a user or group that has no mapping."""
PROBE_SECONDS_MAX = 10.0


class EmbeddedError(ExpectedError):
    """The embedded servers cannot run here; the first line says why, log lines may follow."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to start a server: the prefix of its command line, and the owner of its files."""

    prefix: tuple[str, ...] = ()
    owner: int
    group: int


def way(binary: Path) -> Way:
    """Return the way in which this process can run the servers; raises `EmbeddedError` if there is none."""
    return way_of_root(binary) if os.geteuid() == 0 else Way(owner=os.geteuid(), group=os.getegid())


@cache
def way_of_root(binary: Path) -> Way:
    """Return the first way that can run the binary, tried once; raises `EmbeddedError` if none can."""
    refusals = []
    for candidate in (_as_nobody(), _in_namespace()):
        if (refusal := _refusal(candidate, binary)) is None:
            return candidate
        refusals.append(f"{candidate.prefix[0]}: {refusal}")
    raise EmbeddedError(
        "PostgreSQL cannot run as root, and root cannot start it as another user here "
        f"({'; '.join(refusals)}); run this as an ordinary user"
    )


def _as_nobody() -> Way:
    owner, group = _nobody()
    reach = "-all,+dac_override"
    ids = (f"--reuid={owner}", f"--regid={group}", "--clear-groups")
    # With the bit, access() counts the capability too: PostgreSQL asks it whether its programs can be run.
    caps = (f"--inh-caps={reach}", f"--ambient-caps={reach}", "--securebits=+no_setuid_fixup")
    return Way(prefix=("setpriv", *ids, *caps, "--"), owner=owner, group=group)


def _in_namespace() -> Way:
    owner, group = _nobody()
    ids = (f"--map-user={owner}", f"--map-group={group}")
    return Way(prefix=("unshare", "--user", *ids, "--"), owner=0, group=0)


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return OVERFLOW_ID, OVERFLOW_ID
    return entry.pw_uid, entry.pw_gid


def _refusal(candidate: Way, binary: Path) -> str | None:
    """Return the reason why this way cannot run the binary; None if it can."""
    if shutil.which(candidate.prefix[0]) is None:
        return "not installed (package util-linux)"
    probe = subprocess.run(
        [*candidate.prefix, str(binary), "--version"],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PROBE_SECONDS_MAX,
    )
    if probe.returncode == 0:
        return None
    return " ".join(probe.stderr.decode(errors="replace").split()) or f"exit status {probe.returncode}"


def give(path: Path, to: Way) -> None:
    """Give a server's folder to the user that runs the server; of no effect for an ordinary user.

    The folder itself changes last, so that the next start finishes an interrupted change.
    """
    if os.geteuid() != 0 or path.lstat().st_uid == to.owner:
        return
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(Path(parent, name), to.owner, to.group, follow_symlinks=False)
    os.chown(path, to.owner, to.group, follow_symlinks=False)
