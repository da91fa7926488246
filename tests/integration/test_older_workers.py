"""While a worker of an earlier version runs, nothing is written that it would not understand or obey."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from api.edge.schemas_admin import NewEvent
from ops.adoption.adopt import AdoptionError, adopt
from ops.adoption.report import Report
from ops.embedded import Servers
from shared.domain import commands
from shared.postgres import locks
from tests.stage import Json, Stage

LATER = "2126-01-01T00:00:00Z"
NEWER_SETTINGS = ({"promoteUntil": LATER}, {"cancelUntil": LATER})
NEWER_CHANGES = (*NEWER_SETTINGS, {"promoteUntil": None}, {"slug": "another"}, {"archived": True})
KNOWN_SETTINGS: Json = {
    "waitlistEnabled": True,
    "waitlistLimit": 5,
    "promotionPolicy": "skip_unfit",
    "autoPromote": False,
    "maxSpotsPerRegistration": 3,
    "opensAt": "2026-01-01T00:00:00Z",
    "closesAt": LATER,
}


@pytest.fixture(scope="module")
def stage(
    servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A service, with the session of a worker that announces no version."""
    url = make_url(module_database).set(drivername="postgresql").render_as_string(hide_password=False)
    service = Stage(servers, module_database, tmp_path_factory.mktemp("stage"), workers=1)
    service.more_environment["ADMITONE_OWNER_SILENCE_SECONDS_MAX"] = "240"  # the session below says nothing
    with (
        service as running,
        psycopg.connect(url, application_name="admitone-worker/host/1", autocommit=True) as older,
    ):
        running.create_event(slug="before", capacity=2)
        with running.client() as client:
            client.post("/api/p/before/register", json={"name": "Ann", "spotsCount": 2}).raise_for_status()
        older.execute(f"SELECT pg_advisory_lock_shared({locks.WORKER}, 1)")
        yield running


def create(stage: Stage, **settings: object) -> tuple[int, str | None]:
    """Ask for an event; return the status and the code of the answer."""
    body = {"slug": "newer", "title": "Newer", "capacity": 1, **settings}
    with stage.client() as client:
        answer = client.post("/api/events", json=body, headers=stage.admin)
    return answer.status_code, answer.json().get("code")


def test_settings_of_then_are_all_known() -> None:
    wire = dict(zip(NewEvent.__struct_encode_fields__, NewEvent.__struct_fields__, strict=True))
    settings = {*KNOWN_SETTINGS, *(name for newer in NEWER_SETTINGS for name in newer)}

    assert settings == wire.keys() - {"slug", "title", "capacity"}, "a new setting belongs into a list above"
    assert commands.VERSION == 2


def test_an_event_with_known_settings_is_created(stage: Stage) -> None:
    assert create(stage, slug="known", **KNOWN_SETTINGS) == (201, None)
    assert create(stage, slug="without-ends", promoteUntil=None, cancelUntil=None) == (201, None)


@pytest.mark.parametrize("settings", NEWER_SETTINGS, ids=lambda settings: next(iter(settings)))
def test_an_event_with_newer_settings_is_refused(stage: Stage, settings: Json) -> None:
    assert create(stage, **settings) == (503, "WORKERS_OUTDATED")
    assert stage.query("SELECT id FROM event WHERE slug = 'newer'") == []


@pytest.mark.parametrize("change", NEWER_CHANGES, ids=str)
def test_a_newer_change_is_refused(stage: Stage, change: Json) -> None:
    (event,) = stage.query("SELECT id FROM event WHERE slug = 'before'")
    with stage.client() as client:
        answer = client.patch(f"/api/events/{event['id']}", json=change, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (503, "WORKERS_OUTDATED")


def test_a_holder_makes_no_party_smaller(stage: Stage) -> None:
    (registration,) = stage.query("SELECT command_id FROM registration")
    with stage.client() as client:
        path = f"/api/p/before/receipts/{registration['command_id']}"
        answer = client.patch(path, json={"spotsCount": 1})

    assert (answer.status_code, answer.json()["code"]) == (503, "WORKERS_OUTDATED")


def test_an_adoption_does_not_begin(stage: Stage) -> None:
    report = Report(dry_run=True)

    with pytest.raises(AdoptionError, match="a worker of an older version"):
        adopt(stage.database_url, stage.database_url, report)

    assert not report.events
