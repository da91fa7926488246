"""The pages say what there is: every setting, code, command and route, and nothing that is not there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic.fields import FieldInfo
from typer.core import TyperGroup
from typer.main import get_command

from api.edge.front import Front
from api.edge.problems import ProblemType
from api.main import create_app
from ops.cli import main as cli
from shared import metrics
from shared.domain.outcomes import RefusalCode
from shared.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]
FOLDERS = ("api", "benchmarks", "docs", "migrations", "ops", "shared", "tests", "worker")

WIDTH = 100
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
UNBREAKABLE = re.compile(r"`[^`]*`|\]\([^)]*\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
COMMAND = re.compile(r"\./admitone ([a-z][a-z-]*)(?: (check|replay|create|list|revoke)\b)?")
VARIABLE = re.compile(r"\bADMITONE_[A-Z_]*[A-Z]\b")
METRIC = re.compile(r"(admitone_\w+)(?:\{[\w,]+\})?")
LOG_CALLS = {f"log.{level}": level for level in ("debug", "info", "warning", "error")} | {
    "log.exception": "error"
}
LAUNCHERS_COMMAND = re.compile(r"^        ([a-z]+)\)$", re.MULTILINE)
NOT_A_SETTING = {"ADMITONE_PYTHON", "ADMITONE_TEST_COVERAGE"}
"""Variables of the launcher and the test suite."""


def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def section_of(name: str, title: str) -> str:
    """Return what stands below a heading of the second level, up to the next of them."""
    return text_of(name).partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_of(name: str, title: str) -> dict[str, list[str]]:
    """Return a section's table rows, in order, by the first cell's name without code marks."""
    lines = [line.strip("|") for line in section_of(name, title).splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def default_of(field: FieldInfo) -> str:
    """Return a setting's default as the table shows it."""
    if field.is_required():
        return "required"
    return "not set" if field.default is None else f"`{field.default}`"


def commands_of(command: object, *before: str) -> Iterator[str]:
    """Yield every command of the command line as it is typed, those of groups included."""
    if not isinstance(command, TyperGroup):
        yield " ".join(before)
        return
    for name, below in command.commands.items():
        yield from commands_of(below, *before, name)


def all_commands() -> set[str]:
    """Return every command of the command line, and those that the launcher itself runs."""
    launchers = text_of("admitone").partition("\nrun() {\n")[2].partition("\n}\n")[0]
    return {*commands_of(get_command(cli.app)), *LAUNCHERS_COMMAND.findall(launchers)}


def log_events() -> dict[str, set[str]]:
    """Return every event that the service logs, with its levels."""
    found: dict[str, set[str]] = {}
    for path in (
        path for folder in ("api", "worker", "shared", "ops") for path in CHECKOUT.glob(f"{folder}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (level := LOG_CALLS.get(ast.unparse(node.func))):
                found.setdefault(ast.literal_eval(node.args[0]), set()).add(level)
    return found


def anchors_of(page: Path) -> set[str]:
    """Return the page's headings as links name them."""
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text)}


def application() -> FastAPI:
    url = "redis://nowhere"
    found = create_app(Settings(database_url="postgresql://nowhere/none", broker_url=url, result_url=url))
    assert isinstance(found, Front)
    return found.app


def test_every_decision_has_its_row() -> None:
    rows = re.findall(
        r"^\| \[(\d{4})\]\((.*?)\) \| (.*?) \| ", text_of("docs/decisions/README.md"), re.MULTILINE
    )
    records = sorted((CHECKOUT / "docs/decisions").glob("0*.md"))
    titles = [record.read_text(encoding="utf-8").partition("\n")[0] for record in records]
    assert [(file, f"# {number}: {title}") for number, file, title in rows] == [
        (record.name, title) for record, title in zip(records, titles, strict=True)
    ]


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {name: row[0] for name, row in rows_of("docs/operating.md", "Settings").items()}
    assert documented == {f"ADMITONE_{n.upper()}": default_of(f) for n, f in Settings.model_fields.items()}


def test_every_refusal_code_is_documented_in_precedence() -> None:
    documented = [(code, row[0]) for code, row in rows_of("docs/api.md", "Refusal codes").items()]
    assert documented == [(code, str(ProblemType[code.name].status.value)) for code in RefusalCode]


def test_every_problem_code_is_documented() -> None:
    rows = rows_of("docs/api.md", "Refusal codes") | rows_of("docs/api.md", "Problem codes")
    assert {code: row[0] for code, row in rows.items()} == {
        type_.name: str(type_.status.value) for type_ in ProblemType
    }


def test_every_log_event_is_documented() -> None:
    rows = rows_of("docs/operating.md", "Log events")
    assert {event: set(row[1].split(" or ")) for event, row in rows.items()} == log_events()


def test_every_metric_is_documented() -> None:
    shown = {f"admitone_{name}" for name in ("pending", "pending_oldest_seconds", "workers")}
    shown |= {"admitone_tick_age_seconds", "admitone_drift", "admitone_oldest_snapshot_seconds"}
    families = text_string_to_metric_families(metrics.show().decode())
    shown |= {family.name + "_total" * (family.type == "counter") for family in families}
    named = [METRIC.fullmatch(name) for name in rows_of("docs/operating.md", "Metrics")]
    assert {match[1] for match in named if match} == shown


def test_every_command_is_in_the_table_of_commands() -> None:
    commands = {f"./admitone {command}" for command in all_commands()}
    assert set(rows_of("README.md", "Commands")) == commands


def test_every_route_is_documented() -> None:
    routes = {
        f"{method.upper()} {re.sub('{.*?}', '{}', path)}"
        for path, methods in application().openapi()["paths"].items()
        for method in methods
    }
    documented = re.findall(r"^### `([A-Z]+ /.*)`$", text_of("docs/api.md"), re.MULTILINE)
    assert {re.sub("{.*?}", "{}", route) for route in documented} == routes


@pytest.mark.parametrize("name", NAMES)
def test_prose_is_wrapped(name: str) -> None:
    lines = [UNBREAKABLE.sub("…", line) for line in CODE_BLOCK.sub("", text_of(name)).splitlines()]
    too_long = [line for line in lines if len(line) > WIDTH and not line.startswith(("|", "#", "<!--"))]
    assert too_long == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = CHECKOUT / name
    for link in LINK.findall(CODE_BLOCK.sub("", text_of(name))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_no_file_that_is_not_there(name: str) -> None:
    assert [path for path in FILE.findall(text_of(name)) if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_no_command_that_is_not_there(name: str) -> None:
    named = {" ".join(filter(None, found)) for found in COMMAND.findall(text_of(name))}
    assert named - all_commands() == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_no_variable_that_nothing_reads(name: str) -> None:
    read = {f"ADMITONE_{field.upper()}" for field in Settings.model_fields} | NOT_A_SETTING
    for reader in ("docker-compose.yml", "tests/e2e/test_system_services.py"):
        read |= set(VARIABLE.findall(text_of(reader)))
    assert set(VARIABLE.findall(text_of(name))) - read == set()
