"""A registration that the intake has no room for is refused before its body is read."""

import http.client
import json
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest

from ops.embedded import Servers
from tests.stage import Json, Stage


@pytest.fixture(scope="module")
def full(servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A service without a worker, with room for one pending command."""
    unstarted = Stage(servers, module_database, tmp_path_factory.mktemp("full"))
    unstarted.more_environment = {"ADMITONE_PENDING_MAX": "1", "ADMITONE_EVENT_PENDING_MAX": "1"}
    with unstarted as stage:
        yield stage


def begun(stage: Stage, event: Json) -> http.client.HTTPConnection:
    """Send the head of a registration, without its body."""
    address = urlsplit(stage.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.putrequest("POST", f"/api/p/{event['slug']}/register")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "16")
    connection.endheaders()
    return connection


def test_a_full_service_refuses_at_the_head(full: Stage) -> None:
    event = full.create_event()
    full.kill_worker(0)
    (accepted,) = full.register_at_once(event, [{"name": "First"}], prefer="respond-async")
    assert accepted.status_code == HTTPStatus.ACCEPTED

    connection = begun(full, event)
    answer = connection.getresponse()
    problem = json.loads(answer.read())
    connection.send(b'{"name": "User"}')  # belongs to the refused request
    connection.request("GET", f"/api/p/{event['slug']}")
    next_answer = connection.getresponse()

    assert (answer.status, problem["code"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "INTAKE_FULL")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert next_answer.status == HTTPStatus.OK
    connection.close()
