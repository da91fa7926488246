"""Admins' lists, figures and exports have connections of their own: they never wait with the public."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from starlette.testclient import TestClient

from api.main import create_app
from shared.settings import Settings
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres

KEY = "a-key-for-this-test-alone"
READS = ["", "/registrations", "/registrations?q=ann", "/audit", "/commands", "/counter", "/stats", "/export"]


@pytest.fixture
def busy(settings: Settings) -> Iterator[TestClient]:
    """Return a client of a service in which all places of the admins are taken."""
    app = create_app(settings.model_copy(update={"admin_key": SecretStr(KEY)}))
    with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as client:
        engine = app.app.state.services.admin_engine
        engine.pool._timeout = 0.01  # noqa: SLF001 - each read below waits for so long
        portal = client.portal
        assert portal is not None
        taken = [portal.call(engine.connect().start) for _ in range(settings.admin_connections_max)]
        yield client
        for connection in taken:
            portal.call(connection.close)


def test_busy_admins_leave_the_public_alone(busy: TestClient, connection: Connection) -> None:
    event = InPostgres(connection, SETTINGS).event_id
    answers = {path: busy.get(f"/api/events/{event}{path}") for path in READS}
    answers["list"] = busy.get("/api/events")

    told = {path: (answer.status_code, answer.json().get("code")) for path, answer in answers.items()}
    assert told == {
        **dict.fromkeys([*READS, "list"], (503, "ADMIN_READS_BUSY")),
        "": (200, None),  # an event is found by its key
        "/export": (503, "EXPORT_BUSY"),
    }
    assert all("retry-after" in answer.headers for path, answer in answers.items() if path)
    slug = answers[""].json()["slug"]
    assert busy.get(f"/api/p/{slug}").status_code == 200
    receipt = busy.post(f"/api/p/{slug}/register", json={"name": "A"}, headers={"prefer": "respond-async"})
    assert receipt.status_code == 202
    assert busy.get(receipt.headers["location"]).json()["status"] == "PENDING"
