"""Names, addresses and receipts: where they are, where they never are, and that they can be erased."""

import base64
import json
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import make_url

from ops.adoption.adopt import adopted_id
from ops.embedded import Servers, postgres
from ops.maintenance import audit, erasure, verification
from ops.maintenance.erasure import Report
from shared.messaging import results
from shared.settings import Settings
from tests.integration import old_systems
from tests.integration.test_adoption import wait_until
from tests.stage import Json, Stage

DIGEST_KEY = "a key of these tests"
_NAME = "Zoë Unforgettable"
_TEXTS = """
    SELECT table_schema, table_name, column_name FROM information_schema.columns
    WHERE table_schema IN ('public', 'pg_catalog') AND table_name <> 'pg_stat_activity'
      AND (table_schema = 'public' OR table_name = 'pg_stats')
"""


class Private(Stage):
    """A service whose fingerprints are keyed."""

    def __init__(self, servers: Servers, database_url: str, folders: pytest.TempPathFactory) -> None:
        super().__init__(servers, database_url, folders.mktemp("private"))
        self.folders = folders
        self.more_environment = {"ADMITONE_SECRET_KEY": DIGEST_KEY}

    def settings(self) -> Settings:
        return Settings(
            database_url=self.database_url,
            broker_url=self.servers.broker_url,
            result_url=self.servers.result_url,
            secret_key=SecretStr(DIGEST_KEY),
        )

    def register(self, event: Json, name: str, email: str | None, key: str | None = None) -> Json:
        headers = {} if key is None else {"idempotency-key": key}
        with self.client() as client:
            body = {"name": name} | ({} if email is None else {"email": email})
            answer = client.post(f"/api/p/{event['slug']}/register", json=body, headers=headers)
        told: Json = {"http": answer.status_code, **answer.json()}
        return told

    def receipt(self, event: Json, told: Json) -> Json:
        return self.get(f"/api/p/{event['slug']}/receipts/{told['receiptId']}")

    def erase(self, **asked: object) -> Report:
        unless_given = dict.fromkeys(("registration", "address", "ended_days", "event"))
        found = erasure.subjects(self.settings(), **{**unless_given, **asked})  # type: ignore[arg-type]
        return erasure.erase(self.settings(), found, "They asked for it", dry_run=False)

    def database(self) -> str:
        """Return all that the database keeps: a dump, every row of every table, and the statistics."""
        plain = make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        dump = subprocess.run(
            [postgres.binary("pg_dump"), plain], check=True, capture_output=True
        ).stdout.decode()
        with psycopg.connect(plain) as connection:
            connection.execute("ANALYZE")
            tables = {(schema, table) for schema, table, _ in connection.execute(_TEXTS)}
            rows = [
                str(row)
                for schema, table in tables
                for row in connection.execute(f'SELECT t::text FROM {schema}."{table}" AS t')
            ]
        return dump + "\n".join(rows)

    def logs(self) -> str:
        """Return the logs of the service and of its servers."""
        files = self.folders.getbasetemp().glob("servers*/log/*")
        return self.log() + "".join(path.read_text() for path in files)


@pytest.fixture(scope="module")
def private(
    servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Private]:
    with Private(servers, module_database, tmp_path_factory) as stage:
        yield stage


def forms(receipt: str) -> set[str]:
    """Return a receipt as text, hexadecimal, bytes and base64."""
    id_ = UUID(receipt)
    encoded = {
        base64.b64encode(raw).decode().rstrip("=") for raw in (id_.bytes, receipt.encode(), id_.bytes_le)
    }
    urlsafe = {base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in (id_.bytes, receipt.encode())}
    return (
        {receipt, receipt.upper(), id_.hex, id_.hex.upper(), str(id_.int), id_.bytes.decode("latin-1")}
        | encoded
        | urlsafe
    )


def person() -> tuple[str, str]:
    """Return a name and an address that no other test uses."""
    mark = secrets.token_hex(6)
    return f"{_NAME} {mark}", f"Zoe.{mark}@Example.org"


def kept(text: str, name: str, address: str) -> list[str]:
    """Return which of these are in a text, in any case."""
    found = text.casefold()
    forms_ = (name, json.dumps(name).strip('"'), address, name.rsplit(maxsplit=1)[-1])
    return [each for each in forms_ if each.casefold() in found]


def test_nothing_is_left_of_an_erased_address(private: Private) -> None:
    name, address = person()
    event, other = private.create_event(capacity=1), private.create_event()
    held = private.register(event, name, address, key=secrets.token_hex(8))
    refused = private.register(event, f"{name} again", address.upper())
    gone = private.register(other, name, address.lower())
    with private.client() as client:
        client.delete(
            f"/api/events/{other['id']}/registrations/{gone['registration']['id']}", headers=private.admin
        )
    stranger = private.register(other, "A Stranger", "stranger@example.org")
    assert (held["http"], refused["http"]) == (201, 409)
    assert kept(private.database(), name, address)

    assert private.erase(address=f" {address.swapcase()} ") == Report(events=2, registrations=1, commands=4)

    assert kept(private.database(), name, address) == []
    assert "stranger@example.org" in private.database()
    assert private.erase(address=address) == Report()
    assert private.receipt(event, held)["status"] == "CONFIRMED"
    assert private.receipt(event, refused)["refusal"]["code"] == refused["code"]
    assert private.receipt(other, gone)["status"] == "DELETED"
    assert private.receipt(other, stranger)["status"] == "CONFIRMED"


def test_what_an_erasure_leaves_is_whole(private: Private) -> None:
    name, address = person()
    event = private.create_event(capacity=1)
    held, waiting = private.register(event, name, address), private.register(event, f"{name} too", None)

    private.erase(registration=UUID(waiting["registration"]["id"]))
    private.erase(registration=UUID(held["registration"]["id"]))

    first, second = private.registrations(event)
    assert (first["name"], first["email"], first["status"]) == ("", None, "CONFIRMED")
    assert (second["name"], second["waitlistPosition"]) == ("", 1)
    entries = private.get(f"/api/events/{event['id']}/audit")["items"]
    assert [(e["kind"], e["actor"], e["registrationId"]) for e in entries[2:]] == [
        ("erase", "operator", second["id"]),
        ("erase", "operator", first["id"]),
    ]
    said = private.get(f"/api/events/{event['id']}/registrations/{first['id']}/explain")
    assert (
        said["sentences"][-1] == "Its name and address were erased by operator because 'They asked for it'."
    )
    assert verification.run(private.settings(), [event["slug"]]).in_sync
    assert audit.check(private.database_url, [event["slug"]])[0].problems == []
    assert audit.replay(private.database_url, event["slug"]).problems == []
    again = private.register(event, name, address)
    assert again["status"] == "WAITLIST", "the address is free again"


def test_an_erasure_is_not_taken_for_a_move(private: Private) -> None:
    event = private.create_event()
    told = private.register(event, *person())
    path = f"/api/events/{event['id']}/registrations/{told['registration']['id']}"
    with private.client() as client:
        client.patch(path, json={"status": "WAITLIST"}, headers=private.admin)

    private.erase(registration=UUID(told["registration"]["id"]))

    assert private.get(f"{path}/explain")["sentences"][-1].startswith("It was moved by admin to the waitlist")


def test_an_erasure_reaches_a_deleted_registration(private: Private) -> None:
    name, address = person()
    event = private.create_event()
    told = private.register(event, name, address)
    path = f"/api/events/{event['id']}/registrations/{told['registration']['id']}"
    with private.client() as client:
        assert client.delete(path, headers=private.admin).status_code == 200

    report = private.erase(registration=UUID(told["registration"]["id"]))

    assert report == Report(events=1, commands=2), "its own command, and the one that deleted it"
    assert kept(private.database(), name, address) == []
    (entry,) = private.get(f"/api/events/{event['id']}/audit")["items"][2:]
    assert (entry["kind"], entry["registrationId"]) == ("erase", None)


def test_an_erasure_reaches_corrections(private: Private) -> None:
    (name, address), (other_name, other_address) = person(), person()
    event = private.create_event()
    path = f"/api/events/{event['id']}/registrations"
    with private.client() as client:
        added = client.post(path, json={"name": name, "email": address}, headers=private.admin).json()
        held = f"{path}/{added['registration']['id']}"
        for change in ({"name": other_name, "email": other_address}, {"name": f"{name} {other_name}"}):
            assert client.patch(held, json=change, headers=private.admin).status_code == 200
        assert client.post(f"{held}/receipt", json={}, headers=private.admin).status_code == 201
        client.delete(f"/api/events/{event['id']}", headers=private.admin)

    private.erase(address=other_address)

    kept_now = private.database()
    assert kept(kept_now, name, address) == kept(kept_now, other_name, other_address) == []


@pytest.mark.parametrize("which", ["first", "last"])
def test_an_erasure_reaches_a_name_without_address(private: Private, which: str) -> None:
    (name, address), (other_name, other_address) = person(), person()
    event = private.create_event()
    told = private.register(event, name, address)
    path = f"/api/events/{event['id']}/registrations/{told['registration']['id']}"
    with private.client() as client:
        answers = [
            client.patch(path, json={"name": other_name}, headers=private.admin),
            client.patch(path, json={"email": other_address}, headers=private.admin),
            client.delete(path, headers=private.admin),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]

    assert private.erase(address=address if which == "first" else other_address).commands == 4

    kept_now = private.database()
    assert kept(kept_now, name, address) == kept(kept_now, other_name, other_address) == []


def test_an_erasure_reaches_a_correction_before_it(private: Private) -> None:
    (name, address), (other_name, _) = person(), person()
    event = private.create_event()
    told = private.register(event, name, address)
    path = f"/api/events/{event['id']}/registrations/{told['registration']['id']}"
    plain = make_url(private.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder, private.client() as client, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [event["id"]])
        later = {**private.admin, "prefer": "respond-async"}
        assert client.patch(path, json={"name": other_name}, headers=later).status_code == 202
        report = pool.submit(private.erase, address=address)
        asked = "SELECT FROM command WHERE kind = 'erase' AND event_id = %s"
        wait_until(lambda: bool(private.query(asked, event["id"])))
        holder.rollback()
        assert report.result().pending == 0

    assert kept(private.database(), other_name, address) == []


def test_an_ended_event_is_erased_by_age(private: Private) -> None:
    names = [person() for _ in range(3)]
    ended, open_ = private.create_event(), private.create_event()
    for name, address in names:
        private.register(ended, name, address)
    private.register(open_, "An Other", None)
    private.query("UPDATE event SET closes_at = now() - interval '40 days' WHERE id = %s", ended["id"])

    assert private.erase(ended_days=50) == Report()
    assert private.erase(ended_days=30) == Report(events=1, registrations=3, commands=3)

    assert [kept(private.database(), *each) for each in names] == [[], [], []]
    assert [row["name"] for row in private.registrations(open_)] == ["An Other"]


def everything_of(private: Private, event: Json, name: str, address: str) -> UUID:
    """Have a person leave traces by every way in; return the id of its registration."""
    with private.client() as client:
        held = private.register(event, name, address, key=secrets.token_hex(8))
        path = f"/api/events/{event['id']}/registrations"
        one = f"{path}/{held['registration']['id']}"
        receipt = f"/api/p/{event['slug']}/receipts/{held['receiptId']}"
        answers = [
            client.patch(one, json={"name": f"{name} corrected", "spotsCount": 2}, headers=private.admin),
            client.patch(one, json={"status": "CANCELLED"}, headers=private.admin),
            client.patch(one, json={"status": "CONFIRMED"}, headers=private.admin),
            client.patch(one, json={"name": name, "spotsCount": 900}, headers=private.admin),  # refused
            client.patch(receipt, json={"spotsCount": 1}, headers={"idempotency-key": secrets.token_hex(8)}),
            client.get(path, params={"q": address}, headers=private.admin),
            client.get(f"/api/events/{event['id']}/export", headers=private.admin),
        ]
        given = client.post(f"{one}/receipt", json={}, headers=private.admin)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 409, 200, 200, 200]
    assert given.status_code == 201
    return UUID(held["registration"]["id"])


@pytest.mark.parametrize("way", ["address", "registration", "ended_days"])
def test_a_dump_has_nothing_of_an_erased_person(private: Private, way: str) -> None:
    name, address = person()
    event = private.create_event(capacity=20)
    registration = everything_of(private, event, name, address.upper())
    others: list[Json] = []
    if way != "registration":  # nothing else says that these were of the same person
        others = [
            private.register(event, f"{name} again", f" {address.lower()} "),
            private.register(event, f"{name} crowd", address.swapcase(), key=secrets.token_hex(8)),
        ]
    assert [told["code"] for told in others] == ["ALREADY_REGISTERED"] * len(others)
    private.query(
        "UPDATE event SET closes_at = now() - interval '40 days', promote_until = NULL WHERE id = %s",
        event["id"],
    )
    assert len(kept(private.database(), name, address)) > 1

    asked = {"address": address, "registration": registration, "ended_days": 30}
    private.erase(**{way: asked[way]}, event=event["slug"] if way == "ended_days" else None)

    assert kept(private.database(), name, address) == []
    assert kept(private.logs(), name, address) == []


@pytest.mark.parametrize("way", ["address", "registration", "ended_days"])
def test_an_adopted_person_is_erased(private: Private, empty_database: str, way: str) -> None:
    name, address = person()
    id_ = secrets.token_hex(8)
    old_systems.run(empty_database, old_systems.PRISMA)
    old_systems.add_event(empty_database, id_)
    old_systems.add_registration(empty_database, f"{id_}-1", id_, name=name, email=address)
    old_systems.adopt(empty_database, private.database_url)
    private.query("UPDATE event SET closes_at = now() - interval '40 days' WHERE slug = %s", id_)
    assert kept(private.database(), name, address)

    asked = {"address": address, "registration": adopted_id(f"{id_}-1"), "ended_days": 30}
    private.erase(**{way: asked[way]}, event=id_ if way == "ended_days" else None)

    assert kept(private.database(), name, address) == []


def test_a_pending_command_is_erased_once_decided(private: Private) -> None:
    name, address = person()
    event = private.create_event()
    plain = make_url(private.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    other = private.create_event()
    private.register(other, name, address)
    with psycopg.connect(plain) as holder, private.client() as client:
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [event["id"]])
        waits = client.post(
            f"/api/p/{event['slug']}/register",
            json={"name": name, "email": address},
            headers={"prefer": "respond-async"},
        )
        first = private.erase(address=address)
    with private.client() as client:
        decided = client.get(waits.headers["location"], params={"wait": 20}).json()

    assert (first.pending, first.registrations, decided["status"]) == (1, 1, "CONFIRMED")
    assert kept(private.database(), name, address), "it had yet to be decided"
    assert private.erase(address=address) == Report(events=1, registrations=1, commands=1)
    assert kept(private.database(), name, address) == []


def test_an_erased_key_is_forgotten(private: Private) -> None:
    name, address = person()
    event = private.create_event()
    key = secrets.token_hex(8)
    first = private.register(event, name, address, key)
    assert private.register(event, name, address, key)["receiptId"] == first["receiptId"]

    private.erase(address=address)

    assert private.query("SELECT FROM idempotency_key WHERE event_id = %s", event["id"]) == []
    assert private.register(event, name, address, key)["receiptId"] != first["receiptId"]


def test_an_address_needs_a_key_of_digests(private: Private) -> None:
    without = private.settings().model_copy(update={"secret_key": None})

    with pytest.raises(erasure.ErasureError, match="ADMITONE_SECRET_KEY is not set"):
        erasure.subjects(without, registration=None, address="a@example.org", ended_days=None, event=None)


def test_an_unknown_registration_is_an_error(private: Private) -> None:
    with pytest.raises(erasure.ErasureError, match="no trace"):
        private.erase(registration=UUID(int=1))


def test_an_erasure_holds_a_digest_of_the_address(private: Private) -> None:
    name, address = person()
    event = private.create_event()
    private.register(event, name, address)
    private.erase(address=address, event=event["slug"])

    (row,) = private.query(
        "SELECT payload ->> 'subject' AS subject FROM command WHERE event_id = %s AND kind = 'erase'",
        event["id"],
    )
    assert row["subject"].startswith("02")
    assert len(row["subject"]) == 66


def test_redis_and_logs_hold_no_receipt(private: Private) -> None:
    name, address = person()
    event = private.create_event(capacity=1)
    spoken: list[str] = []
    broker, backend = (
        results.connect(url, 30) for url in (private.servers.broker_url, private.servers.result_url)
    )
    with Monitor(broker, spoken):
        told = [private.register(event, name, address), private.register(event, name, address)]
        told += [private.register(event, f"{name} {n}", None) for n in range(3)]
        with private.client() as client:
            path = f"/api/p/{event['slug']}/receipts/{told[0]['receiptId']}"
            assert client.delete(path).status_code == 200
    found = "".join(spoken) + "".join(everything(client) for client in (broker, backend)) + private.logs()
    assert "celery-task-meta-" in found

    assert kept(found, name, address) == []
    assert [form for each in told for form in forms(each["receiptId"]) if form in found] == []


def test_logs_hold_no_values_of_a_refused_row(private: Private) -> None:
    name, address = person()
    event = private.create_event()
    private.query(f"ALTER TABLE registration ADD CONSTRAINT planted CHECK (name <> '{name}')")
    try:
        told = private.register(event, name, address)
    finally:
        private.query("ALTER TABLE registration DROP CONSTRAINT planted")
    assert told["code"] == "COMMAND_FAILED"

    logs = private.logs()

    assert "planted" in logs, "the reason is there"
    assert kept(logs.replace("ALTER TABLE", ""), name, address) == []
    assert [form for form in forms(told["receiptId"]) if form in logs] == []


class Monitor:
    """Writes down all that Redis is told."""

    def __init__(self, client: "redis.Redis", spoken: list[str]) -> None:
        self._client = client
        self._spoken = spoken
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._listens = threading.Event()

    def __enter__(self) -> None:
        self._thread.start()
        self._listens.wait()

    def __exit__(self, *_: object) -> None:
        self._client.publish("monitor", "the end")
        self._thread.join()

    def _listen(self) -> None:
        with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
            self._listens.set()
            for said in monitor.listen():
                self._spoken.append(str(said))
                if "the end" in said["command"]:
                    return


def everything(client: "redis.Redis") -> str:
    """Return all keys of a database with their values."""
    read: dict[object, Callable[[Any], Any]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return "\n".join(f"{key!r} {read[client.type(key)](key)!r}" for key in client.scan_iter())
