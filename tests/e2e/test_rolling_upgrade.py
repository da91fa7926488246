"""Two versions side by side: an upgrade under load loses no command, and no key is answered as another.

The promise begins with the version `conftest.PROMISED`. Every later version works beside it: its API with
workers of then, its workers with an API of then. Versions before it are upgraded with the API stopped for a
moment.
"""

import secrets
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import make_url

from ops.embedded import Servers
from ops.maintenance import schema
from tests.stage import CHECKOUT, Json, Stage, python_of

pytestmark = pytest.mark.timeout(600)  # installing the packages of another version is counted

CLIENTS, EACH = 8, 8
CAPACITY = 50
FEW = 2
ANSWER_SECONDS_MAX = 30


SPELLINGS = ("{}", '"{}"', '"{}";ordered')
"""Ways to send a key; a client keeps to one of them."""


class Crowd:
    """Clients that register with keys, each key several times, and remember what they were told."""

    def __init__(self, stage: Stage, event: Json) -> None:
        self.stage = stage
        self.event = event
        self.receipts: dict[str, str] = {}
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def register(self, key: str, prefer: str) -> None:
        """Register under a key, or ask again under it; a key that got a receipt must get it again."""
        body = {"name": f"Holder of {key}", "email": f"{key}@example.org"}
        try:
            with httpx2.Client(base_url=self.stage.url, timeout=ANSWER_SECONDS_MAX) as client:
                answer = client.post(
                    f"/api/p/{self.event['slug']}/register",
                    json=body,
                    headers={"idempotency-key": spelled(key), "prefer": prefer},
                )
        except httpx2.HTTPError as error:
            with self._lock:
                self.failures.append(f"{key}: {error!r}")
            return
        with self._lock:
            if answer.status_code not in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
                self.failures.append(f"{key}: {answer.status_code} {answer.text}")
            elif self.receipts.setdefault(key, answer.json()["receiptId"]) != answer.json()["receiptId"]:
                self.failures.append(f"{key}: answered as another request: {answer.text}")

    def register_all(self, keys: list[str], prefer: str = "wait=10") -> None:
        """Register under all of these keys, several at once."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(self.register, keys, [prefer] * len(keys)))


def spelled(key: str) -> str:
    """Return the header in the spelling of the client that made up this key."""
    return SPELLINGS[int(key, 16) % len(SPELLINGS)].format(key)


def keys() -> list[str]:
    """Return new keys."""
    return [secrets.token_hex(8) for _ in range(CLIENTS * EACH)]


def decided(stage: Stage, event: Json, count: int) -> Counter[str]:
    """Wait until so many commands of the event are settled; return how often each outcome was told."""
    for _ in range(ANSWER_SECONDS_MAX * 10):
        (row,) = stage.query("SELECT count(*) AS n FROM outcome WHERE event_id = %s", event["id"])
        if row["n"] >= count:
            break
        time.sleep(0.1)
    rows = stage.query("SELECT outcome ->> 'outcome' AS told FROM ledger WHERE event_id = %s", event["id"])
    return Counter(row["told"] for row in rows)


def test_a_version_before_the_promise_is_upgraded_with_the_api_stopped(
    servers: Servers, empty_database: str, before_the_promise: Path, tmp_path: Path
) -> None:
    url = make_url(empty_database).render_as_string(hide_password=False)
    with Stage(servers, empty_database, tmp_path, workers=0, api_processes=0) as stage:
        subprocess.run(
            [python_of(before_the_promise), "-m", "ops.cli", "migrate"],
            cwd=before_the_promise,
            env={**stage.environment(), "PYTHONPATH": str(before_the_promise)},
            check=True,
        )
        worker, api = stage.start_worker(before_the_promise), stage.start_api(before_the_promise)
        stage.wait_ready()
        event = stage.create_event(capacity=CAPACITY)
        crowd = Crowd(stage, event)
        first, second, third = keys(), keys(), keys()
        crowd.register_all(first)
        stage.end(worker)
        crowd.register_all(second, prefer="respond-async")  # accepted, and not decided
        stage.end(api)

        schema.upgrade(url)
        stage.start_worker()
        stage.start_api()
        stage.wait_ready()
        crowd.register_all(first + second + third)

        told = decided(stage, event, len(first + second + third))

    assert crowd.failures == []
    assert told == {"confirmed": CAPACITY, "waitlisted": 3 * CLIENTS * EACH - CAPACITY}


def test_this_version_works_beside_the_promised_one(
    servers: Servers, database: str, promised: Path, tmp_path: Path
) -> None:
    """An API of then with workers of now, and then an API of now with workers of then, under load."""
    with Stage(servers, database, tmp_path, workers=0, api_processes=0) as stage:
        crowds: list[Crowd] = []
        for api_checkout, worker_checkout in ((promised, CHECKOUT), (CHECKOUT, promised)):
            worker, api = stage.start_worker(worker_checkout), stage.start_api(api_checkout)
            stage.wait_ready()
            for crowd in crowds:  # the keys that the other API took
                crowd.register_all(list(crowd.receipts))
            crowds.append(crowd := Crowd(stage, stage.create_event(capacity=1)))
            load = threading.Thread(target=crowd.register_all, args=(keys(),))
            load.start()
            administer(stage, crowd.event)
            if worker_checkout == promised:
                refuse_what_a_worker_does_not_know(stage, crowd.event)
            load.join()
            crowd.register_all(list(crowd.receipts))
            stage.end(api)
            stage.end(worker)
        told = [decided(stage, crowd.event, CLIENTS * EACH) for crowd in crowds]

    for crowd, outcomes in zip(crowds, told, strict=True):
        assert crowd.failures == []
        assert len(crowd.receipts) == CLIENTS * EACH
        assert outcomes.keys() <= {"confirmed", "waitlisted", "event_changed", "status_changed", "deleted"}
        assert outcomes["confirmed"] + outcomes["waitlisted"] == CLIENTS * EACH


def refuse_what_a_worker_does_not_know(stage: Stage, event: Json) -> None:
    """Ask for something that only the newer version knows."""
    with stage.client() as client:
        newer = {"capacity": CAPACITY, "allowOverbooked": True}
        changed = client.patch(f"/api/events/{event['id']}", json=newer, headers=stage.admin)
        ending = {"slug": "ending", "title": "E", "capacity": 1, "promoteUntil": "2126-01-01T00:00:00Z"}
        created = client.post("/api/events", json=ending, headers=stage.admin)
    for answer in (changed, created):
        assert (answer.status_code, answer.json()["code"]) == (503, "WORKERS_OUTDATED")


def administer(stage: Stage, event: Json) -> None:
    """Change the event, and cancel and delete registrations, which promotes others."""
    while len(found := stage.registrations(event)) < FEW:
        time.sleep(0.05)
    cancelled, deleted = (f"/api/events/{event['id']}/registrations/{row['id']}" for row in found[:FEW])
    with stage.client() as client:
        answers = [
            client.patch(f"/api/events/{event['id']}", json={"capacity": CAPACITY}, headers=stage.admin),
            client.patch(cancelled, json={"status": "CANCELLED"}, headers=stage.admin),
            client.delete(deleted, headers=stage.admin),
        ]
    assert [answer.status_code for answer in answers] == [HTTPStatus.OK] * 3, stage.log()
