"""`status` names the events that are not decided, and says why."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import make_url, text

from ops.embedded import Servers
from ops.maintenance import delays, healing, retention, status, verification
from ops.maintenance.delays import Delay
from ops.maintenance.status import FailedStatus, TableLocked
from shared.settings import Settings
from tests.databases import run
from tests.stage import Json, Stage

_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON registration FOR EACH ROW
WHEN (NEW.name = 'Poison') EXECUTE FUNCTION refuse()
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an event count as delayed at once."""
    monkeypatch.setattr(delays, "DELAYED_SECONDS", 0.2)


@pytest.fixture(scope="module")
def own_stage(
    servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A stage that each test leaves as it was."""
    with Stage(servers, module_database, tmp_path_factory.mktemp("delays")) as stage:
        yield stage


@contextmanager
def session(stage: Stage, name: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    url = make_url(stage.database_url).set(drivername="postgresql")
    address = url.render_as_string(hide_password=False)
    with psycopg.connect(address, application_name=name) as connection:
        yield connection
        connection.rollback()


def post(stage: Stage, event: Json, name: str = "A") -> None:
    with stage.client() as client:
        path = f"/api/p/{event['slug']}/register"
        answer = client.post(path, json={"name": name}, headers={"prefer": "respond-async"})
    assert answer.status_code == 202


def delay_of(stage: Stage, event: Json, part: str) -> Delay:
    """Return the event's delay once its reason has this part."""
    found: list[Delay] = []
    for _ in range(100):
        found = status.read(stage.database_url).delayed
        for delay in found:
            if delay.event == event["slug"] and part in delay.reason:
                return delay
        time.sleep(0.1)
    raise AssertionError(found)


@pytest.mark.parametrize("together", [False, True])
def test_the_holder_of_a_row_is_named(own_stage: Stage, *, together: bool) -> None:
    event = own_stage.create_event()
    locking = "SELECT FROM event WHERE id = %s FOR " + ("KEY SHARE" if together else "UPDATE")
    with session(own_stage, "forgotten psql") as holder, session(own_stage, "other") as other:
        holder.execute(locking, [event["id"]])
        if together:
            other.execute(locking, [event["id"]])
        post(own_stage, event)
        delay = delay_of(own_stage, event, "has locked the event's row")
        assert delay.holder is not None
        assert (delay.holder.pid, delay.holder.application, delay.holder.state) == (
            holder.info.backend_pid,
            "forgotten psql",
            "idle in transaction",
        )
        assert delay.pending == 1


def test_the_holder_of_a_table_is_named(own_stage: Stage) -> None:
    event = own_stage.create_event()
    with session(own_stage, "an index") as holder:
        holder.execute("LOCK TABLE registration IN SHARE MODE")
        post(own_stage, event)
        reason = delay_of(own_stage, event, "has locked the table").reason
        (lock,) = status.read(own_stage.database_url).locked_tables
        who = f"process {holder.info.backend_pid} (an index, idle in transaction)"
        assert lock.sentence.startswith(f"{who} has locked the table registration, in a transaction of")
        assert lock.sentence.rpartition(",")[0] == reason.rpartition(",")[0]


def test_the_holder_of_a_registrations_row_is_named(own_stage: Stage) -> None:
    event = own_stage.create_event(capacity=1)
    own_stage.register_at_once(event, [{"name": "Held"}])
    (item,) = own_stage.get(f"/api/events/{event['id']}/registrations")["items"]
    with session(own_stage, "forgotten psql") as holder, own_stage.client() as client:
        holder.execute("SELECT FROM registration WHERE id = %s FOR UPDATE", [item["id"]])
        client.patch(
            f"/api/events/{event['id']}/registrations/{item['id']}",
            json={"status": "CANCELLED"},
            headers={**own_stage.admin, "prefer": "respond-async"},
        )
        reason = delay_of(own_stage, event, "set aside").reason
        assert f"process {holder.info.backend_pid} (forgotten psql, idle in transaction)" in reason
        assert "has locked rows of the table registration" in reason


@pytest.mark.parametrize("table", ["event", "pending_command", "outcome"])
def test_a_locked_table_does_not_hold_the_status(
    own_stage: Stage, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_WAIT", text("SET LOCAL lock_timeout = '100ms'"))
    with session(own_stage, "a migration") as holder:
        holder.execute(f"LOCK TABLE {table}")
        with pytest.raises(TableLocked, match=rf"\(a migration, .*\) has locked the table {table}, in a"):
            status.read(own_stage.database_url)


def test_a_command_that_is_set_aside_is_told(own_stage: Stage) -> None:
    event = own_stage.create_event()
    own_stage.query(_REFUSE.format(code="P0001"))
    post(own_stage, event, "Poison")
    assert "1 set aside: P0001 planted; tried" in delay_of(own_stage, event, "set aside").reason
    own_stage.query("DROP FUNCTION refuse CASCADE")


@pytest.mark.parametrize(
    ("cause", "mend", "reason"),
    [
        ("event SET audit_seq = 7 WHERE ", "event SET audit_seq = 1 WHERE ", "its audit trail is cut off"),
        ("event SET audit_seq = 0 WHERE ", "event SET audit_seq = 1 WHERE ", "is behind its audit trail"),
        (
            "command SET version = 99 WHERE event_",
            "command SET version = 1 WHERE event_",
            "its next command needs a worker of a newer version",
        ),
    ],
)
def test_a_standstill_is_told(own_stage: Stage, cause: str, mend: str, reason: str) -> None:
    event = own_stage.create_event()
    own_stage.register_at_once(event, [{"name": "A"}])
    with session(own_stage, "a repair by hand") as holder:
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [event["id"]])
        post(own_stage, event)
        holder.execute(f"UPDATE {cause}id = %s", [event["id"]])
        holder.commit()
    delay_of(own_stage, event, reason)
    own_stage.query(f"UPDATE {mend}id = '{event['id']}'")


def test_an_event_without_its_row_is_named(own_stage: Stage, servers: Servers) -> None:
    event = own_stage.create_event()
    with session(own_stage, "a repair by hand") as holder:
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [event["id"]])
        post(own_stage, event)
        holder.execute("DELETE FROM event WHERE id = %s", [event["id"]])
        holder.commit()
    broker, result = servers.broker_url, servers.result_url
    settings = Settings(database_url=own_stage.database_url, broker_url=broker, result_url=result)
    try:
        delay = delay_of(own_stage, {"slug": event["id"]}, "its row was deleted")
        found = [verification.run(settings, []), healing.run(settings, [])]
    finally:
        own_stage.query("DELETE FROM pending_command WHERE event_id = %s", event["id"])

    assert delay.pending == 1
    assert [(one.in_sync, one.events_gone) for one in found] == [(False, [(event["id"], 1)])] * 2
    assert verification.run(settings, []).in_sync


def test_old_notes_of_troubles_are_deleted(database: str) -> None:
    for days in (0, 2):
        note = "INSERT INTO trouble (event_id, error, tried_at) VALUES (gen_random_uuid(), :error, "
        run(database, f"{note} now() - make_interval(days => {days}))", error=str(days))
    retention.tidy(database, 30)
    assert [row.error for row in run(database, "SELECT error FROM trouble")] == ["0"]


def test_no_worker_is_told(own_stage: Stage) -> None:
    event = own_stage.create_event()
    own_stage.kill_worker(0)
    post(own_stage, event)
    try:
        assert delay_of(own_stage, event, "").reason == "no worker runs"
    finally:
        own_stage.start_worker()
        own_stage.wait_ready()


def test_failed_commands_are_counted_and_listed(own_stage: Stage) -> None:
    event = own_stage.create_event()
    assert status.read(own_stage.database_url).failed == FailedStatus(
        count=0, latest_at=None, event=None, incident_id=None
    )
    own_stage.query(_REFUSE.format(code="23514"))
    answers = own_stage.register_at_once(
        event, [{"name": "Poison"}, {"name": "A"}, {"name": "Poison"}], prefer="wait=20"
    )
    assert sorted(answer.status_code for answer in answers) == [201, 500, 500]
    incidents = [answer.json()["incidentId"] for answer in answers if answer.status_code == 500]
    receipts = [answer.json()["receiptId"] for answer in answers]

    page = own_stage.get(f"/api/events/{event['id']}/commands?outcome=failed")
    assert {item["incidentId"] for item in page["items"]} == set(incidents)
    assert [(item["kind"], item["actor"]) for item in page["items"]] == [("register", "public")] * 2
    assert not any(receipt in str(page) for receipt in receipts)
    first = own_stage.get(f"/api/events/{event['id']}/commands?limit=1")
    rest = own_stage.get(f"/api/events/{event['id']}/commands?cursor={first['nextCursor']}")
    assert first["items"] + rest["items"] == page["items"]

    failed = status.read(own_stage.database_url).failed
    assert (failed.count, failed.event) == (2, event["slug"])
    assert failed.incident_id in incidents
    with own_stage.client() as client:
        path = f"/api/events/{event['id']}/commands"
        assert client.get(path).status_code == 401
        assert client.get(path, params={"outcome": "x"}, headers=own_stage.admin).status_code == 422
