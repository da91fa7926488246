"""The pages run as printed: a test follows each in one shell, in any order after the README."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from ops.maintenance import schema
from ops.stack import state_file
from ops.stack.state_file import Running
from tests.e2e import printed
from tests.e2e.stacks import CHECKOUT, Up, up

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the pages ask the service by curl"),
]

Answers = dict[int, str]

PAGES = sorted(["README.md", *(str(page.relative_to(CHECKOUT)) for page in CHECKOUT.glob("docs/*.md"))])
AT_LAST_SPOT = """
SELECT registration.* FROM registration JOIN event ON event.id = event_id
WHERE slug = 'last-spot' ORDER BY seq
"""
NAMES_AT_DEMO = """
SELECT payload ->> 'name' FROM ledger JOIN event ON event.id = event_id
WHERE slug = 'demo' AND settled_at IS NOT NULL ORDER BY seq
"""
AT_TOO_MANY = """
SELECT registration.status, min(split_part(name, ' ', 2)::int), max(split_part(name, ' ', 2)::int)
FROM registration JOIN event ON event.id = event_id WHERE slug = 'too-many' GROUP BY registration.status
ORDER BY registration.status
"""
REASON = "<!-- not run by the test of this page: "
NOT_RUN = {
    "README.md": ["the first runs until Ctrl-C, the second runs that test", "it needs your own servers"],
    "docs/counter-migration.md": [
        "it names your own servers",
        "it needs your application",
        "it names your own server",
    ],
    "docs/migrating.md": ["it names your own servers", "not every PostgreSQL has this extension"],
    "docs/operating.md": [
        "another test runs the API behind PgBouncer with these lines",
        *["it needs your own servers"] * 2,
        *["it needs Docker"] * 2,
        "it needs your own servers",
        "it needs Docker",
    ],
    "docs/performance.md": ["it measures for minutes"] * 3,
    "docs/reliability.md": [
        *["it breaks things for minutes"] * 3,
        "it takes some minutes",
    ],
}
"""The blocks that no test can run, and why."""
REGISTRATIONS = 'SELECT * FROM "Registration" ORDER BY id'

OLD_TABLES = """
CREATE TYPE "RegistrationStatus" AS ENUM ('CONFIRMED', 'WAITLIST', 'CANCELLED');
CREATE TABLE "Event" (
    "id" TEXT NOT NULL,
    "slug" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "capacity" INTEGER NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "Event_pkey" PRIMARY KEY ("id")
);
CREATE TABLE "Registration" (
    "id" TEXT NOT NULL,
    "eventId" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "spotsCount" INTEGER NOT NULL DEFAULT 1,
    "status" "RegistrationStatus" NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "Registration_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX "Event_slug_key" ON "Event"("slug");
ALTER TABLE "Registration" ADD CONSTRAINT "Registration_eventId_fkey"
    FOREIGN KEY ("eventId") REFERENCES "Event"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

INSERT INTO "Event" (id, slug, title, capacity) VALUES
    ('clw2k0q7h0000356k8v3x1a2b', 'summer', 'Summer', 5),
    ('clw2k0q7h0001356k8v3x1a2c', 'oversold', 'Oversold', 1);
INSERT INTO "Registration" (id, "eventId", name, "spotsCount", status) VALUES
    ('r1', 'clw2k0q7h0000356k8v3x1a2b', 'Ada', 3, 'CONFIRMED'),
    ('r2', 'clw2k0q7h0000356k8v3x1a2b', 'Grace', 2, 'CONFIRMED'),
    ('r3', 'clw2k0q7h0000356k8v3x1a2b', 'Alan', 1, 'WAITLIST'),
    ('r4', 'clw2k0q7h0000356k8v3x1a2b', 'Edsger', 1, 'CANCELLED'),
    ('r5', 'clw2k0q7h0001356k8v3x1a2c', 'Barbara', 1, 'CONFIRMED'),
    ('r6', 'clw2k0q7h0001356k8v3x1a2c', 'Donald', 1, 'CONFIRMED');
"""
"""The tables that Prisma's migrations make of a counting system's models, with an event that it oversold."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a fresh checkout after its first start."""
    return fresh(tmp_path_factory.mktemp("docs") / "admitone")


def fresh(folder: Path) -> Path:
    folder.mkdir()
    for path in CHECKOUT.iterdir():
        if path.name not in {".git", ".admitone", "data"}:
            (folder / path.name).symlink_to(path)
    (folder / ".admitone").symlink_to(folder / "data")
    return folder


@pytest.fixture(scope="module")
def stack(checkout: Path) -> Iterator[Up]:
    """The stack of that checkout."""
    with up(checkout) as started:
        yield started.ready()
        started.stop()


@pytest.fixture(scope="module")
def readme(stack: Up, checkout: Path) -> Answers:
    """The answers to the README's commands, which a reader tries first."""
    return follow("README.md", stack, checkout)


def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def follow(name: str, stack: Up, checkout: Path, **told_to_set: str) -> Answers:
    """Type a page's commands into one shell; only the port differs from the printed one."""
    blocks = list(printed.blocks_of(text_of(name).replace("localhost:9000", f"localhost:{stack.port}")))
    ours = ("ADMITONE_", "DATABASE_", "PG", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return printed.run(blocks, checkout, {**environment, **told_to_set})


def check_answers(name: str, answers: Answers) -> None:
    """Compare every printed answer with the one that its command gave."""
    expected = printed.answers_of(list(printed.blocks_of(text_of(name))))
    assert expected, "this page prints answers"
    for line, block in expected.items():
        shown, given = (printed.shape_of(block.language, text) for text in (block.text, answers[line]))
        assert printed.agrees(shown, given), f"{name}, line {block.line}, prints {shown}; it was {given}"


def running(stack: Up) -> Running:
    found = state_file.running(stack.data)
    assert found is not None
    return found


def database(stack: Up, name: str, statements: str = "") -> str:
    """Make a database on the stack's server, and return its URL as psql takes it."""
    url = running(stack).database_url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    made = url.replace("/admitone?", f"/{name}?")
    query(made, statements)
    return made


def query(url: str, statements: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statements.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def key_of(stack: Up) -> str:
    return (stack.data / "admin.key").read_text().strip()


def test_the_readme_runs_as_printed(readme: Answers) -> None:
    check_answers("README.md", readme)


@pytest.mark.usefixtures("readme")
def test_the_api_page_runs_as_printed(stack: Up, checkout: Path) -> None:
    check_answers("docs/api.md", follow("docs/api.md", stack, checkout))


@pytest.mark.usefixtures("readme")
def test_the_operating_page_runs_as_printed(stack: Up, checkout: Path) -> None:
    check_answers("docs/operating.md", follow("docs/operating.md", stack, checkout))

    live = running(stack).database_url
    assert query(live, AT_TOO_MANY) == [("CONFIRMED", 1, 100), ("WAITLIST", 101, 170)]
    restored = live.replace("/admitone?", "/admitone_restored?")
    assert query(restored, AT_LAST_SPOT) == query(live, AT_LAST_SPOT) != []


@pytest.mark.usefixtures("readme")
def test_the_privacy_page_runs_as_printed(stack: Up, checkout: Path) -> None:
    check_answers("docs/privacy.md", follow("docs/privacy.md", stack, checkout))

    names = query(running(stack).database_url, NAMES_AT_DEMO)
    assert ("A person that leaves",) not in names


@pytest.mark.usefixtures("readme")
def test_the_reliability_page_runs_as_printed(stack: Up, checkout: Path) -> None:
    check_answers("docs/reliability.md", follow("docs/reliability.md", stack, checkout))


@pytest.mark.usefixtures("readme")
def test_an_owner_of_the_original_tables_adds_the_counter(stack: Up, checkout: Path) -> None:
    tickets = database(stack, "tickets", OLD_TABLES)
    before = query(tickets, REGISTRATIONS)
    ours = database(stack, "counting")
    schema.upgrade(ours.replace("postgresql", "postgresql+psycopg", 1), "0001")
    urls = {"DATABASE_URL": tickets, "STAGING_URL": database(stack, "staging"), "ADMITONE_DATABASE_URL": ours}
    check_answers("docs/counter-migration.md", follow("docs/counter-migration.md", stack, checkout, **urls))

    assert query(tickets, REGISTRATIONS) == before
    counters = 'SELECT slug, "spotsReserved" FROM "Event" ORDER BY slug'
    assert query(urls["STAGING_URL"], counters) == [("oversold", 2), ("summer", 5)]
    assert query(ours, "SELECT version_num FROM alembic_version") == [("0001",)]


@pytest.mark.usefixtures("readme")
def test_an_owner_of_the_original_tables_moves_over(stack: Up, checkout: Path) -> None:
    move_over(stack, checkout, database(stack, "old", OLD_TABLES))


def test_an_owner_moves_over_within_one_database(tmp_path: Path) -> None:
    """A stack of its own, so that its events are those of the old tables."""
    folder = fresh(tmp_path / "admitone")
    with up(folder) as stack:
        stack.ready()
        query(running(stack).database_url, OLD_TABLES)
        move_over(stack, folder, running(stack).database_url)
        stack.stop()


def move_over(stack: Up, folder: Path, old: str) -> None:
    """Walk the page, from the old tables in this database to the stack."""
    new = running(stack)
    told = {**new.environment(), "old": old, "url": f"http://localhost:{stack.port}", "key": key_of(stack)}
    before = query(old, REGISTRATIONS)
    check_answers("docs/migrating.md", follow("docs/migrating.md", stack, folder, **told))

    assert query(old, REGISTRATIONS) == before
    taken = "SELECT count(*) FROM registration WHERE command_id IS NULL"
    assert query(new.database_url, taken) == [(len(before),)]
    query(old, """UPDATE "Registration" SET name = name""")


@pytest.mark.usefixtures("readme")
def test_the_query_of_row_holders_names_the_holder(stack: Up) -> None:
    [holders] = [
        block.text for block in printed.blocks_of(text_of("docs/operating.md")) if "xmax" in block.text
    ]
    url = running(stack).database_url
    with psycopg.connect(url, application_name="a person's psql") as holder:
        holder.execute("SELECT FROM event WHERE slug = 'demo' FOR UPDATE")
        found = [row for row in query(url, holders) if not row[1].startswith("admitone-worker/")]
        assert [row[:3] + row[4:5] for row in found] == [
            (holder.info.backend_pid, "a person's psql", "idle in transaction", "demo")
        ]
    assert [row for row in query(url, holders) if row[1] == "a person's psql"] == []


@pytest.mark.parametrize("name", PAGES)
def test_few_blocks_cannot_run_and_each_says_why(name: str) -> None:
    lines = text_of(name).splitlines()
    left_out = [block for block in printed.blocks_of(text_of(name)) if block.tag]
    reasons = [lines[block.line - 2].strip() for block in left_out]
    assert {block.tag for block in left_out} <= {"norun"}
    assert [reason for reason in reasons if not reason.startswith(REASON)] == []
    assert [reason.removeprefix(REASON).removesuffix(" -->") for reason in reasons] == NOT_RUN.get(name, [])


def test_every_command_has_a_language_that_runs() -> None:
    for name in PAGES:
        for block in printed.blocks_of(text_of(name)):
            place = f"{name}, line {block.line}"
            assert block.language in {"sh", "crontab"} or "./admitone" not in block.text, place
            assert block.answers_a_command or block.language not in printed.ANSWERS, place
