"""Exports whose clients stop reading or go away: their place, connection and snapshot are free again."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ops.embedded import Servers
from tests.stage import Json, Stage

ROWS = 50_000
FREE_SECONDS_MAX = 30
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


def ask(stage: Stage, event: Json) -> socket.socket:
    """Ask for an export and read its beginning only."""
    address = urlsplit(stage.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((address.hostname, address.port))
    head = [f"GET /api/events/{event['id']}/export HTTP/1.1", "Host: x", f"Authorization: Bearer {stage.key}"]
    client.sendall("\r\n".join([*head, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 200"
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


def test_a_reader_that_leaves_holds_nothing(impatient: Stage) -> None:
    event = filled(impatient)
    for _ in range(4):
        ask(impatient, event).close()
        wait_until_free(impatient)
    assert_whole(impatient, event)

    assert "Traceback" not in impatient.log()
