"""Exports: as spreadsheets and programs read them, and free again when their clients do not."""

import asyncio
import csv
import io
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from api.edge.problems import ProblemError
from api.queries import exports
from api.queries.exports import Exports
from ops.embedded import Servers
from shared.domain import ids
from shared.postgres import connections
from shared.settings import Settings
from tests.stage import Json, Stage

ROWS = 50_000
SIGNS = "=+@\uff1d\uff0b\uff0d\uff20\ufe62\u2212-"
FREE_SECONDS_MAX = 30
WAIT_SECONDS_MAX = 10
_FILL = """
    INSERT INTO registration (event_id, id, seq, name, spots_count, status)
    SELECT %s, gen_random_uuid(), 10000000 + n, 'Person number ' || n, 1, 'CONFIRMED'
    FROM generate_series(1, %s) AS n
    RETURNING NULL
"""
_OPEN = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'admitone-api' AND state <> 'idle'
"""


class _Impatient(Stage):
    """A service that cuts a download off after a second in which its client takes nothing."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "ADMITONE_EXPORT_STALL_SECONDS_MAX": "1"}


@pytest.fixture
def impatient(servers: Servers, database: str, tmp_path: Path) -> Iterator[Stage]:
    """Return a running service of that kind."""
    with _Impatient(servers, database, tmp_path) as stage:
        yield stage


def filled(stage: Stage) -> Json:
    event = stage.create_event(capacity=ROWS)
    stage.query(_FILL, event["id"], ROWS)
    return event


def ask(stage: Stage, event: Json, status: bytes = b"200", version: str = "1.1") -> socket.socket:
    """Ask for an export and read its beginning only."""
    address = urlsplit(stage.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((address.hostname, address.port))
    request = f"GET /api/events/{event['id']}/export HTTP/{version}"
    head = [request, "Host: x", f"Authorization: Bearer {stage.key}"]
    client.sendall("\r\n".join([*head, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 " + status
    return client


def wait_until_free(stage: Stage) -> None:
    deadline = time.monotonic() + FREE_SECONDS_MAX
    while stage.query(_OPEN) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stage.query(_OPEN) == []


def assert_whole(stage: Stage, event: Json) -> None:
    with stage.client() as client:
        answer = client.get(f"/api/events/{event['id']}/export", headers=stage.admin)
    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == ROWS + 1


def named(stage: Stage, names: Sequence[str]) -> Json:
    """Return an event with a registration of each name, written past the API as an adoption might."""
    event = stage.create_event(capacity=1_000)
    stage.query(
        """
        INSERT INTO registration (event_id, id, seq, name, email, spots_count, status, created_at)
        SELECT %s, gen_random_uuid(), place, name, CASE WHEN name LIKE '%%@%%' THEN name END, 1, 'CONFIRMED',
               '2026-03-01 12:00+02'
        FROM unnest(%s::text[]) WITH ORDINALITY AS given (name, place) RETURNING NULL
        """,
        event["id"],
        list(names),
    )
    return event


def exported(stage: Stage, event: Json, query: str) -> bytes:
    with stage.client() as client:
        answer = client.get(f"/api/events/{event['id']}/export?{query}", headers=stage.admin)
    assert answer.status_code == 200
    content: bytes = answer.content
    return content


@pytest.mark.parametrize(("separator", "character"), [("comma", ","), ("semicolon", ";")])
def test_a_spreadsheet_opens_the_csv(stage: Stage, separator: str, character: str) -> None:
    names = ["Zoë 李", 'with "quotes"', "semi;colon, comma", "two\nlines", "back\\slash"]
    event = named(stage, names)

    content = exported(stage, event, f"separator={separator}")

    assert content.startswith(b"\xef\xbb\xbfid"), "a byte order mark, or Excel guesses another encoding"
    text = content.decode("utf-8-sig")
    assert text.endswith("\r\n")
    assert text.replace("two\nlines", "").count("\n") == text.count("\r\n"), "all lines end by RFC 4180"
    table = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=character))
    assert [row["name"] for row in table] == names
    assert {row["createdAt"] for row in table} == {"2026-03-01T10:00:00.000000Z"}
    assert all(re.search(r',"[^"]|;"[^"]', line) for line in text.splitlines() if "semi;colon" in line)


def test_no_cell_begins_a_formula(stage: Stage) -> None:
    before = ["", " ", "\u00a0", "\u3000 ", "\ufeff", "x;", "x; ", "x,\u2003", "x\t"]
    starts = [begin + sign for begin in before for sign in f"{SIGNS}\t\r"]
    event = named(stage, [start + rest for start in starts for rest in ("cmd|' /C calc'!A0", "1@x.example")])

    for row in csv.DictReader(io.StringIO(exported(stage, event, "").decode("utf-8-sig"), newline="")):
        for cell in (row["name"], row["email"]):
            for half in re.split(r"[,;\t\r\n]", cell):
                assert not re.match(rf"[\s\ufeff]*[{SIGNS}]", half), cell
            assert not cell.startswith(("\t", "\r"))


def test_harmless_cells_stay_as_they_are(stage: Stage) -> None:
    names = ["Ann-Marie", "a+b", "x = y", "O'Neil", "1,5 m", "Smith, Ann", "a1@x.example", "3B", "E5"]
    event = named(stage, names)

    table = csv.DictReader(io.StringIO(exported(stage, event, "").decode("utf-8-sig")))

    assert [row["name"] for row in table] == names


def test_no_cell_becomes_a_number_or_a_date(stage: Stage) -> None:
    names = [
        "007",
        "00420777123456",
        "1E5",
        "1e-5",
        "1/2",
        "1 1/2",
        "2026-01-02",
        "1.5",
        "12:30",
        "$5",
        "(5)",
    ]
    event = named(stage, names)

    table = csv.DictReader(io.StringIO(exported(stage, event, "").decode("utf-8-sig")))

    assert [row["name"] for row in table] == [f"'{name}" for name in names]


def test_each_registration_is_one_line_of_json(stage: Stage) -> None:
    names = [f"a{separator}b" for separator in '\u2028\u2029\u0085\x0b\x0c\x1c\x1e\r\n\\"']
    event = named(stage, names)

    lines = exported(stage, event, "format=ndjson").decode().splitlines()

    read = [json.loads(line) for line in lines]
    assert [row["name"] for row in read] == names
    assert {row["createdAt"] for row in read} == {"2026-03-01T10:00:00.000000Z"}


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_event_without_registrations_is_exported(stage: Stage, form: str) -> None:
    event = stage.create_event()

    content = exported(stage, event, f"format={form}")

    assert len(content.splitlines()) == (1 if form == "csv" else 0)


def test_readers_that_do_not_read_hold_nothing(impatient: Stage) -> None:
    event = filled(impatient)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(ask(impatient, event))
        wait_until_free(impatient)
        for _ in range(2):
            assert_whole(impatient, event)

    assert "download_cut_off" in impatient.log()
    assert "Traceback" not in impatient.log()


def test_no_chunks_by_http_1_0(stage: Stage) -> None:
    with ask(stage, named(stage, ["A"]), b"505", version="1.0") as client:
        answer = b"".join(iter(lambda: client.recv(4_096), b""))
    assert b"HTTP_VERSION_NOT_SUPPORTED" in answer
    assert b"transfer-encoding" not in answer.lower()


def test_a_reader_that_leaves_holds_nothing(impatient: Stage) -> None:
    event = filled(impatient)
    for _ in range(4):
        ask(impatient, event).close()
        wait_until_free(impatient)
    assert_whole(impatient, event)

    assert "Traceback" not in impatient.log()


@pytest.mark.parametrize(("connections_max", "places"), [(1, 1), (2, 1), (9, 2)])
def test_exports_leave_places_to_other_reads(settings: Settings, connections_max: int, places: int) -> None:
    async def run() -> list[str]:
        engine = connections.async_engine(settings)
        made, event_id, codes = Exports(engine, connections_max), ids.new_id(), []
        held = [await made.begin(exports.NDJSON, event_id, personal=True) for _ in range(places)]
        for _ in range(2):
            try:
                async with asyncio.timeout(WAIT_SECONDS_MAX):
                    held.append(await made.begin(exports.NDJSON, event_id, personal=True))
                codes.append("begun")
            except ProblemError as error:
                codes.append(error.code)
                await held.pop()[1].aclose()
        for _, chunks in held:
            await chunks.aclose()
        await engine.dispose()
        return codes

    assert asyncio.run(run()) == ["EXPORT_BUSY", "begun"]


def test_an_export_outlasts_other_statements(stage: Stage) -> None:
    event = filled(stage)

    async def run() -> int:
        limit = {"options": "-c statement_timeout=200"}
        engine = create_async_engine(stage.database_url, connect_args=limit, isolation_level="AUTOCOMMIT")
        event_id = UUID(event["id"])
        first, others = await Exports(engine, 1).begin(exports.NDJSON, event_id, personal=True)
        await asyncio.sleep(0.3)
        rest = [chunk async for chunk in others]
        await engine.dispose()
        return b"".join([first, *rest]).count(b"\n")

    assert asyncio.run(run()) == ROWS
