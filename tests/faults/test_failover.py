"""A failover to a synchronous standby: nothing that was told is lost or undone."""

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.stage import Json, Stage
from tests.standbys import Cluster

CLIENTS = 8
_WAITING = "SELECT {}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL, TERMINATE = _WAITING.format("pg_cancel_backend"), _WAITING.format("pg_terminate_backend")
FIRST_SECONDS_MAX = 3
_NOT_NOW = {500, 503, 504}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        yield made


class Crowd:
    """Clients that ask until they are answered; `receipts` and `slugs` have all that they were told."""

    def __init__(self, stage: Stage, event: Json) -> None:
        self._stage = stage
        self._path = f"/api/p/{event['slug']}"
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS + 1)
        self.acknowledged: set[str] = set()
        self.receipts: dict[str, Json] = {}
        self.slugs: list[str] = []
        self.confirmed_at: list[float] = []
        self._running = [self._pool.submit(self._register) for _ in range(CLIENTS)]
        self._running.append(self._pool.submit(self._create))

    def end(self) -> None:
        """End the clients, and raise their errors."""
        self._ended.set()
        for client in self._running:
            client.result()
        self._pool.shutdown()

    def _ask(self, method: str, path: str, **more: object) -> httpx2.Response | None:
        """Ask again for as long as the answer is "not now"; return None at the end."""
        while not self._ended.is_set():
            with suppress(httpx2.TransportError), self._stage.client() as client:
                answer = client.request(method, path, **more)  # type: ignore[arg-type]
                if answer.status_code not in _NOT_NOW:
                    return answer
            time.sleep(0.1)
        return None

    def _register(self) -> None:
        while not self._ended.is_set():
            headers = {"idempotency-key": secrets.token_hex(8), "prefer": "wait=2"}
            answer = self._ask("POST", f"{self._path}/register", json={"name": "User"}, headers=headers)
            while answer is not None:
                told = answer.json()
                self.acknowledged.add(told["receiptId"])
                if told["status"] != "PENDING":
                    self.receipts[told["receiptId"]] = told
                    if answer.status_code == 201:
                        self.confirmed_at.append(time.monotonic())
                    break
                path = f"{self._path}/receipts/{told['receiptId']}"
                answer = self._ask("GET", path, params={"wait": 1})

    def _create(self) -> None:
        while not self._ended.is_set():
            asked = {"slug": f"drop-{secrets.token_hex(6)}", "title": "A drop", "capacity": 1}
            with suppress(httpx2.TransportError), self._stage.client() as client:
                headers = {**self._stage.admin, "prefer": "wait=1"}
                if client.post("/api/events", json=asked, headers=headers).status_code == 201:
                    self.slugs.append(asked["slug"])  # type: ignore[arg-type]
            time.sleep(0.2)


def test_nothing_told_is_lost_by_a_failover(cluster: Cluster) -> None:
    stage = cluster(workers=2, api_processes=2)
    event = stage.create_event(capacity=1_000_000)
    crowd = Crowd(stage, event)
    time.sleep(2)
    cluster.hop.pause()
    for cut_off in (CANCEL, TERMINATE, CANCEL, TERMINATE):
        time.sleep(1)
        cluster.query(cluster.primary, cut_off)
    time.sleep(1)
    cluster.restart_primary()
    time.sleep(4)
    on_the_old = {str(row["id"]) for row in cluster.query(cluster.primary, "SELECT id FROM command")}
    cluster.fail_over()
    promoted_at = time.monotonic()
    while not any(at > promoted_at for at in crowd.confirmed_at):
        assert time.monotonic() < promoted_at + 20, stage.log()[-3_000:]
        time.sleep(0.02)
    first_seconds = time.monotonic() - promoted_at
    time.sleep(2)
    crowd.end()

    kept = {str(row["id"]) for row in cluster.query(cluster.standby, "SELECT id FROM command")}
    assert on_the_old - kept, "the failover undoes commands that nobody was told of"
    assert crowd.acknowledged - kept == set()
    for receipt_id, told in crowd.receipts.items():
        shown = stage.get(f"/api/p/{event['slug']}/receipts/{receipt_id}")
        assert (shown["status"], shown["registration"]["id"]) == (told["status"], told["registration"]["id"])
    slugs = {row["slug"] for row in cluster.query(cluster.standby, "SELECT slug FROM event")}
    assert set(crowd.slugs) <= slugs
    assert first_seconds < FIRST_SECONDS_MAX
