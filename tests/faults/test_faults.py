"""Whatever dies in the middle of a drop: everybody who was told "accepted" is answered, once."""

import asyncio
import base64
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx2
import psycopg
from celery.result import AsyncResult
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from shared.messaging import queues, results
from shared.postgres import locks
from shared.settings import Settings
from tests.stage import Breakable, Json, Stage

REGISTRATIONS = 400
CAPACITY = 60
ANSWER_SECONDS_MAX = 60


async def _crowd(stage: Stage, event: Json, break_it: Callable[[], None]) -> list[Json]:
    """Send all registrations, break something when a quarter is answered, and follow each to its answer."""
    limits = httpx2.Limits(max_connections=40)
    path = f"/api/p/{event['slug']}/register"
    answered = 0
    broken = asyncio.Event()

    async def ask(client: httpx2.AsyncClient, method: str, path: str, **more: Any) -> httpx2.Response:
        """Ask until there is an answer other than "not now"."""
        while (answer := await client.request(method, path, **more)).status_code in {503, 504}:  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # as a client does on Retry-After
        return answer

    async def one(client: httpx2.AsyncClient, n: int) -> Json:
        nonlocal answered
        headers = {"idempotency-key": f"registration {n}"}
        answer = await ask(client, "POST", path, json={"name": f"User {n}"}, headers=headers)
        while answer.json()["status"] == "PENDING":
            receipt = f"/api/p/{event['slug']}/receipts/{answer.json()['receiptId']}"
            answer = await ask(client, "GET", receipt, params={"wait": 5})
        assert answer.status_code in {200, 201}, answer.text
        answered += 1
        if answered >= REGISTRATIONS // 4 and not broken.is_set():
            broken.set()
            break_it()  # here and not in a thread: a server ends with the thread that started it
        found: Json = answer.json()
        return found

    async with httpx2.AsyncClient(base_url=stage.url, limits=limits, timeout=30) as client:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return await asyncio.gather(*(one(client, n) for n in range(REGISTRATIONS)))


def _assert_all_answered_once(stage: Stage, event: Json, answers: list[Json]) -> None:
    assert Counter(a["status"] for a in answers) == {
        "CONFIRMED": CAPACITY,
        "WAITLIST": REGISTRATIONS - CAPACITY,
    }
    assert len({a["receiptId"] for a in answers}) == REGISTRATIONS
    rows = stage.registrations(event)
    assert {r["id"] for r in rows} == {a["registration"]["id"] for a in answers}
    assert Counter(r["name"] for r in rows) == {f"User {n}": 1 for n in range(REGISTRATIONS)}
    assert stage.get(f"/api/events/{event['id']}/counter") == {
        "spotsReserved": CAPACITY,
        "actualConfirmed": CAPACITY,
        "drift": 0,
    }


def _owner(stage: Stage, event: Json) -> int:
    """Return the place among the stage's workers of the one that owns the event."""
    engine = create_engine(stage.database_url, poolclass=NullPool)
    with engine.connect() as connection:
        (owner,) = [worker for worker in locks.workers(connection) if worker.owns(UUID(event["id"]))]
    return [worker.pid for worker in stage.workers].index(owner.pid)


def _flush(stage: Stage) -> None:
    client = results.connect(stage.servers.broker_url)
    client.flushall()
    client.close()


def test_a_killed_owner_is_replaced_without_loss(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=CAPACITY)

    answers = asyncio.run(_crowd(stage, event, lambda: stage.kill_worker(_owner(stage, event))))

    _assert_all_answered_once(stage, event, answers)


def test_every_worker_is_killed_one_after_the_other(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=CAPACITY)

    def kill_all() -> None:
        for _ in range(2):
            stage.start_worker()
            stage.kill_worker(0)
            time.sleep(0.3)

    answers = asyncio.run(_crowd(stage, event, kill_all))

    _assert_all_answered_once(stage, event, answers)


def test_a_flushed_valkey_loses_nothing(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=CAPACITY)

    answers = asyncio.run(_crowd(stage, event, lambda: _flush(stage)))

    _assert_all_answered_once(stage, event, answers)
    receipt = stage.get(f"/api/p/{event['slug']}/receipts/{answers[0]['receiptId']}")
    assert receipt["status"] == answers[0]["status"], "answered from the ledger"


def test_a_missing_valkey_stops_no_registration(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=CAPACITY)

    answers = asyncio.run(_crowd(stage, event, breakable.valkey.stop))
    with stage.client() as client:
        late = client.post(f"/api/p/{event['slug']}/register", json={"name": "Late"})
    breakable.valkey.start()
    breakable.valkey.wait_ready()
    deadline = time.monotonic() + 15
    with stage.client() as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, stage.log()
            time.sleep(0.1)

    assert (late.status_code, late.json()["status"]) == (201, "WAITLIST")
    assert len(answers) == REGISTRATIONS
    assert Counter(a["status"] for a in answers)["CONFIRMED"] == CAPACITY


def test_a_restarted_postgresql_loses_no_accepted_command(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=CAPACITY)

    def restart() -> None:
        breakable.postgres.stop()
        breakable.postgres.start()
        breakable.postgres.wait_ready()

    answers = asyncio.run(_crowd(stage, event, restart))

    _assert_all_answered_once(stage, event, answers)


def test_a_hung_owner_loses_its_events(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event(capacity=5)
    with stage.client() as client:
        assert client.post(f"/api/p/{event['slug']}/register", json={"name": "Before"}).status_code == 201
        hung = stage.workers[_owner(stage, event)]
        hung.send_signal(signal.SIGSTOP)
        try:
            answer = client.post(
                f"/api/p/{event['slug']}/register", json={"name": "After"}, headers={"prefer": "wait=25"}
            )
        finally:
            hung.send_signal(signal.SIGCONT)

    assert (answer.status_code, answer.json()["status"]) == (201, "CONFIRMED")


def test_a_wake_message_goes_to_its_event(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    path, headers = f"/api/p/{event['slug']}/register", {"prefer": "respond-async"}
    with stage.client() as client:
        client.post(path, json={"name": "First"})  # its message goes to the owner's queue
        stage.kill_worker(0)  # nobody takes the next message out again
        client.post(path, json={"name": "User"}, headers=headers)
    broker = results.connect(stage.servers.broker_url)
    try:
        _, message = broker.blpop([f"event.{event['id']}"], timeout=10) or (None, b"{}")
    finally:
        broker.close()

    arguments, *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert arguments == [[event["id"]]]


def test_a_doubled_message_has_no_second_effect(stage: Stage) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).json()
    settings = Settings(
        database_url=stage.database_url,
        broker_url=stage.servers.broker_url,
        result_url=stage.servers.result_url,
    )
    celery = queues.celery_app(settings)
    for _ in range(3):
        queues.wake(celery, queues.EVENT_QUEUE % UUID(event["id"]), [UUID(event["id"])])
    with stage.client() as client:  # decided after the doubled messages, by the same owner
        after = client.post(f"/api/p/{event['slug']}/register", json={"name": "Next"}).json()

    assert after["status"] == "CONFIRMED"
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 2
    assert len(stage.get(f"/api/events/{event['id']}/audit")["items"]) == 2
    result: AsyncResult[Json] = AsyncResult(answer["taskId"], app=celery)
    assert result.get(timeout=5)["outcome"] == "confirmed", "Celery reads the outcome as a result of its own"


def test_an_unreadable_message_costs_no_worker(stage: Stage) -> None:
    event = stage.create_event()
    settings = Settings(
        database_url=stage.database_url,
        broker_url=stage.servers.broker_url,
        result_url=stage.servers.result_url,
    )
    path = f"/api/p/{event['slug']}/register"
    with stage.client() as client:
        client.post(path, json={"name": "User"})
    owner = _owner(stage, event)
    celery, queue = queues.celery_app(settings), queues.event_queue(UUID(event["id"]))
    for arguments in ([["no id"]], [], [[event["id"]], []]):
        celery.send_task(queues.APPLY_COMMANDS, args=arguments, queue=queue, declare=[], retry=False)  # type: ignore[arg-type]
    until = time.monotonic() + ANSWER_SECONDS_MAX
    counted = 'admitone_log_entries_total{event="wake_not_understood",level="warning"} 3.0'
    with stage.client() as client:
        while counted not in (shown := client.get("/metrics").text) and time.monotonic() < until:
            time.sleep(0.05)
        after = client.post(path, json={"name": "Next"}).json()

    assert counted in shown
    assert stage.log().count("wake_not_understood") == 1, "a trouble that lasts is logged once"
    assert after["status"] == "CONFIRMED"
    assert _owner(stage, event) == owner


def test_a_locked_event_delays_no_other(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    locked, other = stage.create_event(), stage.create_event()
    url = make_url(stage.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with stage.client() as client, psycopg.connect(url) as holder:
        for event in (locked, other):
            client.post(f"/api/p/{event['slug']}/register", json={"name": "First"})
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [locked["id"]])
        held = client.post(
            f"/api/p/{locked['slug']}/register", json={"name": "Held"}, headers={"prefer": "respond-async"}
        )
        answers = [client.post(f"/api/p/{other['slug']}/register", json={"name": "Next"}) for _ in range(5)]
        waiting = client.get(held.headers["location"]).json()
        holder.rollback()
        decided = client.get(held.headers["location"], params={"wait": 20}).json()

    assert [answer.status_code for answer in answers] == [201] * 5
    assert (waiting["status"], decided["status"]) == ("PENDING", "CONFIRMED")
    assert stage.log().count("worker_joined") == 1, "the worker kept its session"


def test_a_hanging_valkey_costs_no_ownership(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    path = f"/api/p/{event['slug']}/register"
    with stage.client() as client:
        client.post(path, json={"name": "Before"})
        os.kill(breakable.valkey.pid, signal.SIGSTOP)
        try:
            time.sleep(12)  # longer than the silence after which PostgreSQL ends an owner's session
            answer = client.post(path, json={"name": "Meanwhile"}, headers={"prefer": "wait=25"})
        finally:
            os.kill(breakable.valkey.pid, signal.SIGCONT)

    assert (answer.status_code, answer.json()["status"]) == (201, "CONFIRMED")
    assert stage.log().count("worker_joined") == 1, "the worker kept its session"


def test_an_ending_api_gives_receipts(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    stage.kill_worker(0)  # nobody decides
    path = f"/api/p/{event['slug']}/register"
    with stage.client() as client, ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(client.post, path, json={"name": "User"}, headers={"prefer": "wait=20"})
        while not stage.query("SELECT id FROM command WHERE event_id = %s", event["id"]):
            time.sleep(0.05)
        stage.end_api()
        answer = asked.result()

    assert (answer.status_code, answer.json()["status"]) == (202, "PENDING")
    (row,) = stage.query("SELECT id::text FROM command WHERE event_id = %s", event["id"])
    assert answer.json()["receiptId"] == row["id"]
