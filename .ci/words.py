"""Checks the language of the source: few pronouns for persons, no riddle as a docstring or a heading."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICE = ("api", "worker", "shared")
OTHERS = ("ops", "benchmarks", "migrations", ".ci")

PRONOUN = re.compile(r"(?i)\b(who|whom|whose|whoever|nobody|somebody|everybody|anybody|whatever)\b")
PRONOUNS_MAX = 15
RIDDLE = re.compile(r"(?i)(who|what|whoever|nobody)\b")
HEADING = re.compile(r"#+ +(.*)")


def pronouns() -> Iterator[str]:
    """Yield a line for each pronoun for persons in the source of the service."""
    for path in _files(SERVICE, ".py", ".sql"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for _ in PRONOUN.findall(line):
                yield f"{path}:{number}: {line.strip()}"


def riddles() -> Iterator[str]:
    """Yield a line for each docstring or Markdown heading that begins with a word of `RIDDLE`."""
    for path in _files(SERVICE + OTHERS, ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if RIDDLE.match(docstring):
                    yield f"{path}:{node.body[0].lineno}: {docstring.splitlines()[0]}"
    for path in [*Path().glob("*.md"), *_files(("docs",), ".md")]:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            heading = HEADING.match(line)
            if heading and RIDDLE.match(heading[1]):
                yield f"{path}:{number}: {line}"


def _files(folders: tuple[str, ...], *suffixes: str) -> list[Path]:
    return sorted(path for folder in folders for path in Path(folder).rglob("*") if path.suffix in suffixes)


def main() -> int:
    """Print each violation; return the exit status."""
    violations: list[str] = []
    used = list(pronouns())
    if len(used) > PRONOUNS_MAX:
        violations += [f"{len(used)} pronouns for persons; the service may have {PRONOUNS_MAX}:", *used]
    if begun := list(riddles()):
        violations += ["These docstrings and headings begin with who, what, whoever or nobody:", *begun]
    if violations:
        print(*violations, sep="\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
