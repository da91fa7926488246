r"""SQL statements in files of their own, one statement a file.

A parameter stands in the file as `:'name'`, psql's own notation, so that a statement can be pasted into psql
after `\set name value`. Here it becomes the driver's `%(name)s`.
"""

import re
from pathlib import Path

SHARED = Path(__file__).parent / "sql"
_PARAMETER = re.compile(r":'(\w+)'")


def load(path: Path) -> bytes:
    """Return the statement of a file, with the driver's parameters."""
    return _PARAMETER.sub(r"%(\1)s", path.read_text(encoding="utf-8").replace("%", "%%")).encode()


def inlined(path: Path, **parameters: str) -> str:
    """Return the statement of a file as a part of another one, with SQL in the place of each parameter."""
    return _PARAMETER.sub(lambda parameter: parameters[parameter[1]], path.read_text(encoding="utf-8"))
