"""Reads the fenced blocks of a page, runs its commands in one shell, and compares answers by their shape."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ANSWERS = {"json", "http", "text", "csv"}
RUN_SECONDS_MAX = 150

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_NUMBERS_THAT_VARY = {"seq", "decidedPerMinute", "ahead", "number"}
_VARYING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00)"), "<time>"),
    (re.compile(r"\b[0-9a-f]{24,}\b"), "<hash>"),
    (re.compile(r"\bao_[0-9a-f]{12}(_[\w-]{43})?"), "<key>"),
    (re.compile(r"(?<=retry-after: )\d+"), "<seconds>"),
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page: the line it begins at, its language and tag, and its text."""

    line: int
    language: str
    tag: str
    text: str
    answers_a_command: bool

    @property
    def runs(self) -> bool:
        """Whether the block is a command that runs as it is printed."""
        return self.language in {"sh", "sql"} and self.tag != "norun"

    @property
    def script(self) -> str:
        """The block as a shell's input: a statement is typed into psql."""
        if self.language == "sh":
            return self.text
        return f"psql -v ON_ERROR_STOP=1 \"$ADMITONE_DATABASE_URL\" <<'SQL'\n{self.text}SQL\n"


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the blocks of a page, in order."""
    end = 0
    for found in _FENCE.finditer(page):
        language, _, tag = found["info"].partition(" ")
        yield Block(
            line=page.count("\n", 0, found.start()) + 1,
            language=language,
            tag=tag,
            text=re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            answers_a_command=language in ANSWERS and not page[end : found.start()].strip(),
        )
        end = found.end()


def answers_of(blocks: list[Block]) -> dict[int, Block]:
    """Return the printed answers, by the line of the command that they stand behind."""
    return {before.line: block for before, block in pairwise(blocks) if block.answers_a_command}


def run(blocks: list[Block], folder: Path, environment: Mapping[str, str]) -> dict[int, str]:
    """Run the commands in one shell; return what each printed, by its line. The first failure ends it."""
    commands = [block for block in blocks if block.runs]
    script = "set -eu\n" + "".join(f"echo; echo @@{block.line}\n{block.script}" for block in commands)
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607  # the shell of this machine, as a reader has it
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS_MAX,
    )
    parts = re.split(r"^@@(\d+)\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    assert done.returncode == 0, f"the block at line {max(printed)} failed:\n{parts[-1]}\n{done.stderr}"
    assert list(printed) == [block.line for block in commands]
    return printed


def shape_of(language: str, answer: str) -> object:
    """Return an answer without what differs at every run: ids, times, hashes, places, and layout."""
    match language:
        case "json":
            return sorted((_masked(json.loads(line)) for line in answer.splitlines() if line), key=json.dumps)
        case "http":
            head, _, body = answer.strip().replace("\r", "").partition("\n\n")
            status, *headers = _mask(head).split("\n")
            return status, {header.lower() for header in headers}, _masked(json.loads(body))
        case "csv":
            rows = answer.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # a page cannot show it
            return re.sub(r"<id>,\d+", "<id>,<seq>", _mask(rows)).strip().splitlines()
        case _:
            return [" ".join(line.split()) for line in _mask(answer).splitlines() if line.strip()]


def agrees(printed: object, given: object) -> bool:
    """Tell whether an answer is as printed; a printed HTTP answer shows only some of its headers."""
    match printed, given:
        case (status, set(headers), body), (given_status, set(given_headers), given_body):
            return (status, body) == (given_status, given_body) and headers <= given_headers
        case _:
            return printed == given


def _mask(text: str) -> str:
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text


def _masked(value: object, name: str = "") -> object:
    if isinstance(value, dict):
        return {key: _masked(value[key], key) for key in sorted(value)}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return _mask(value)
    return "<number>" if name in _NUMBERS_THAT_VARY and isinstance(value, int) else value
