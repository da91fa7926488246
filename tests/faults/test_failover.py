"""A failover to a synchronous standby: nothing that was told is lost or undone."""

import asyncio
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.commands.intake import Intake
from ops.maintenance import api_keys, erasure
from ops.maintenance import status as statuses
from ops.maintenance.erasure import Subject
from shared.domain.access import Principal, Scope
from shared.errors import ExpectedError
from shared.postgres import connections, durability, ledger
from shared.postgres.durability import NotConfirmed
from shared.settings import Settings
from tests.stage import Json, Stage
from tests.standbys import Cluster

CLIENTS = 8
_WAITING = "SELECT {}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL, TERMINATE = _WAITING.format("pg_cancel_backend"), _WAITING.format("pg_terminate_backend")
FIRST_SECONDS_MAX = 3
_SETTLED = """
    SELECT command.id FROM command JOIN outcome ON command_id = id WHERE payload ->> 'name' = 'Meanwhile'
"""
_CANCELLED = "SELECT id FROM registration WHERE name = 'Before' AND status = 'CANCELLED'"
_ACCEPTED = "SELECT id FROM command WHERE payload ->> 'name' = 'Waits'"
_NEXT_XID = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
_NOT_NOW = {500, 503, 504}


@pytest.fixture
def cluster(tmp_path: Path, migrated_cluster: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, migrated_cluster) as made:
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


def _answer_of_a_decision_cut_off(cluster: Cluster, stage: Stage, path: str) -> tuple[int, str]:
    """Return the answer to a request that is accepted with the standby, and decided without it."""
    (worker,) = stage.workers
    worker.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool, stage.client() as client:
        waiting = pool.submit(client.post, path, json={"name": "Waits"}, headers={"prefer": "wait=4"})
        until = time.monotonic() + 20
        while not cluster.query(cluster.primary, _ACCEPTED):
            assert time.monotonic() < until, stage.log()[-3_000:]
            time.sleep(0.05)
        cluster.hop.pause()
        worker.send_signal(signal.SIGCONT)
        while not waiting.done():
            cluster.query(cluster.primary, CANCEL)
            time.sleep(0.1)
    assert cluster.query(cluster.primary, f"{_ACCEPTED} AND id IN (SELECT command_id FROM outcome)")
    return waiting.result().status_code, waiting.result().json()["status"]


def _told_to_operators(cluster: Cluster) -> list[str]:
    """Return the commands of operators that did not say "done" while commits were cut off."""
    settings = Settings(
        database_url=cluster.url,
        broker_url=cluster.servers.broker_url,
        result_url=cluster.servers.result_url,
        secret_key=SecretStr(secrets.token_urlsafe()),
    )
    holder = Principal(name="Ann", organiser_id=None, scopes=frozenset(Scope))
    told: list[str] = []
    with ThreadPoolExecutor() as pool:
        erased = pool.submit(erasure.erase, settings, [Subject(email_key="nobody")], None, dry_run=False)
        key = pool.submit(api_keys.create, cluster.url, holder, organiser=None, days=1)
        for name, command in (("erasure", erased), ("key", key)):
            while not command.done():
                cluster.query(cluster.primary, CANCEL)
                time.sleep(0.1)
            if isinstance(command.exception(), ExpectedError):
                told.append(name)
    return told


def test_nothing_is_told_that_the_standby_has_not(cluster: Cluster) -> None:
    stage = cluster()
    event = stage.create_event()
    path = f"/api/p/{event['slug']}"
    headers = {"idempotency-key": "k", "prefer": "wait=1"}
    with stage.client() as client:

        def register() -> httpx2.Response:
            return client.post(f"{path}/register", json={"name": "Meanwhile"}, headers=headers)

        before = client.post(f"{path}/register", json={"name": "Before"}).json()
        known = f"{path}/receipts/{before['receiptId']}"
        assert client.get(known).status_code == 200
        cluster.hop.pause()
        first = register()
        until = time.monotonic() + 20
        while not cluster.query(cluster.primary, _SETTLED):  # by cutting off the intake, then the worker
            assert time.monotonic() < until, stage.log()[-3_000:]
            cluster.query(cluster.primary, CANCEL)
            time.sleep(0.2)
        (row,) = cluster.query(cluster.primary, _SETTLED)
        unknown = f"{path}/receipts/{row['id']}"
        again = register()
        unconfirmed = client.get(unknown, params={"wait": 1})
        still_known = client.get(known, params={"wait": 1})
        until = time.monotonic() + 20
        while not cluster.query(cluster.primary, _CANCELLED):
            assert time.monotonic() < until, stage.log()[-3_000:]
            cluster.query(cluster.primary, CANCEL)
            client.delete(known, headers={"prefer": "wait=1"})
        changed = client.get(known, params={"wait": 1})
        asked = {"slug": "late", "title": "Late", "capacity": 1}
        created = client.post("/api/events", json=asked, headers={**stage.admin, "prefer": "wait=1"})
        durable = statuses.read(cluster.url).durability
        refused_to_operators = _told_to_operators(cluster)
        cluster.hop.resume()
        confirmed = client.get(unknown, params={"wait": 10})
        replayed = client.post(
            f"{path}/register", json={"name": "Meanwhile"}, headers={**headers, "prefer": "wait=10"}
        )
        decided_alone = _answer_of_a_decision_cut_off(cluster, stage, f"{path}/register")

    assert durable.synchronous_standby
    assert durable.sessions_waiting
    assert {first.status_code, again.status_code} <= {503, 504}
    assert (unconfirmed.status_code, unconfirmed.json()["code"]) == (503, "ANSWER_UNAVAILABLE")
    assert unconfirmed.json()["receiptId"] == str(row["id"])
    assert still_known.status_code == 200, "it was confirmed before"
    assert (changed.status_code, changed.json()["code"]) == (503, "ANSWER_UNAVAILABLE")
    assert (created.status_code, created.json()["code"]) == (504, "ACCEPTANCE_UNKNOWN")
    assert decided_alone == (202, "PENDING")
    assert refused_to_operators == ["erasure", "key"]
    assert (confirmed.status_code, confirmed.json()["status"]) == (200, "CONFIRMED")
    assert (replayed.status_code, replayed.json()["receiptId"]) == (201, str(row["id"]))
    assert "outcomes_not_confirmed" in stage.log()


def test_a_read_says_what_is_to_be_confirmed(cluster: Cluster) -> None:
    stage = cluster()
    event = stage.create_event()
    with stage.client() as client:
        told = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).json()
    stage.end(stage.workers[0])  # its ticks write
    pair = (UUID(event["id"]), UUID(told["receiptId"]))
    settings = Settings(
        database_url=cluster.url,
        broker_url=cluster.servers.broker_url,
        result_url=cluster.servers.result_url,
    )

    async def read() -> tuple[str | None, bool]:
        """Return what is to be confirmed before an outcome is told, and whether a confirmation writes."""
        intake, engine = Intake(settings), connections.async_engine(settings)
        async with engine.connect() as connection:
            recorded = await ledger.outcomes_of(connection, [pair])
            to_confirm = recorded[pair[1]].to_confirm
            await intake.confirm([to_confirm])
            await intake.confirm_all(set())  # a new session writes by itself, this one no more
            before = (await connection.execute(_NEXT_XID)).scalar_one()
            await intake.confirm_all(set())
            writes = (await connection.execute(_NEXT_XID)).scalar_one() != before
            for rows in (["3@another server"], [to_confirm, "3@another server"]):
                with pytest.raises(NotConfirmed):
                    await intake.confirm(rows)
        await intake.close()
        await engine.dispose()
        return to_confirm, writes

    with_standby, writes = asyncio.run(read())
    cluster.set_standby("")
    time.sleep(1)
    without, writes_without = asyncio.run(read())

    assert with_standby is not None
    assert writes
    assert (without, writes_without) == (None, False)


def test_only_a_wait_for_the_standby_excuses(cluster: Cluster) -> None:
    settings = Settings(
        database_url=cluster.url,
        broker_url=cluster.servers.broker_url,
        result_url=cluster.servers.result_url,
    )

    async def ask(waiting: int) -> list[bool]:
        session = await connections.accepting_session(settings)
        async with session:
            pids = waiting, session.info.backend_pid
            return [await durability.waits_for_standby(session, pid) for pid in pids]

    cluster.hop.pause()
    with ThreadPoolExecutor() as pool:
        write = pool.submit(cluster.query, cluster.primary, "CREATE TABLE written ()")
        try:
            until = time.monotonic() + 20
            while not (rows := cluster.query(cluster.primary, _WAITING.format(""))):
                assert time.monotonic() < until, "the write never waited"
                time.sleep(0.05)
            found = asyncio.run(ask(rows[0]["pid"]))
        finally:
            cluster.hop.resume()
        write.result()

    assert found == [True, False]


def test_a_started_server_has_another_name(cluster: Cluster) -> None:
    asked = durability.SERVER.text
    before = cluster.query(cluster.primary, asked)
    assert cluster.query(cluster.primary, asked) == before

    cluster.restart_primary()

    assert cluster.query(cluster.primary, asked) != before


@pytest.mark.parametrize(
    ("xid", "limit", "below"),
    [
        (5, 0, False),
        (2**31 + 5, 0, False),
        (5, 5, False),
        (5, 6, True),
        (2**32 - 1, 2**32 + 3, True),
        (4, 2**32 + 3, False),
        (2**31 + 4, 5, False),
        (2**31 + 5, 5, True),
    ],
)
def test_transaction_ids_wrap_around(xid: int, limit: int, below: bool) -> None:  # noqa: FBT001
    assert durability.is_below(xid, limit) is below


def test_settings_that_risk_commands_are_told() -> None:
    safe = durability.Durability(
        fsync=True,
        full_page_writes=True,
        synchronous_commit="on",
        synchronous_standby=True,
        sessions_waiting=0,
    )
    assert safe.warnings == []
    risky = replace(safe, fsync=False, full_page_writes=False, synchronous_commit="off")
    assert [warning.partition(" ")[0] for warning in risky.warnings] == [
        "fsync",
        "full_page_writes",
        "synchronous_commit",
    ]
    assert len(replace(safe, synchronous_commit="local").warnings) == 1
    assert replace(safe, synchronous_commit="local", synchronous_standby=False).warnings == []
