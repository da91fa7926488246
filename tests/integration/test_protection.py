"""The protection of events from anonymous clients: spots of an address, proofs of work."""

import asyncio
import base64
import json
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import altcha
import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from api.main import create_app
from api.protection.address_spots import AddressSpots
from api.protection.shared_memory import SharedMemory
from api.queries.protections import Protections
from api.queries.reader import Reader
from ops.embedded import Servers
from shared.domain import ids
from shared.messaging import results
from shared.postgres import connections
from shared.settings import Settings
from tests.databases import session_of
from tests.simulation.histories import SETTINGS as TERMS
from tests.simulation.in_postgres import InPostgres
from tests.stage import Breakable, Json, Stage

SETTINGS = {"ADMITONE_SECRET_KEY": "a secret key of the tests", "ADMITONE_API_PROCESSES": "2"}


@pytest.fixture(scope="module")
def two(servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two API processes that share a secret key."""
    unstarted = Stage(servers, module_database, tmp_path_factory.mktemp("two"), api_processes=2)
    unstarted.more_environment = SETTINGS
    with unstarted as stage:
        yield stage


def protect(stage: Stage, event: Json, **protection: Any) -> None:
    """Give an event this protection, and wait until all processes have seen it."""
    with stage.client() as client:
        path = f"/api/events/{event['id']}/protection"
        answer = client.put(path, json=protection, headers=stage.admin)
        assert answer.status_code == 200, answer.text
        assert client.get(path, headers=stage.admin).json() == answer.json()
    time.sleep(1.5)


def post(stage: Stage, event: Json, address: str = "127.0.0.1", key: str | None = None, **body: Any) -> Json:
    """Register from an address of this machine on a connection of its own; return the answer's facts."""
    transport = httpx2.HTTPTransport(local_address=address)
    with httpx2.Client(base_url=stage.url, transport=transport, timeout=30) as client:
        answer = client.post(
            f"/api/p/{event['slug']}/register",
            json={"name": "User", **body},
            headers={} if key is None else {"idempotency-key": key},
        )
    found: Json = answer.json()
    return {"http": answer.status_code, "replayed": "idempotent-replayed" in answer.headers, **found}


def codes(answers: list[Json]) -> Counter[str]:
    """Return how many answers had each code, or status where there is none."""
    return Counter(str(answer.get("code", answer["status"])) for answer in answers)


def challenge(stage: Stage, event: Json) -> altcha.Challenge:
    """Return a challenge of an event."""
    with stage.client() as client:
        answer = client.get(f"/api/p/{event['slug']}/challenge")
    assert answer.status_code == 200, answer.text
    return altcha.Challenge.from_dict(answer.json())


def solution(given: altcha.Challenge) -> str:
    """Solve a challenge."""
    solved = altcha.solve_challenge(given)
    assert solved is not None
    return altcha.Payload(given, solved).to_base64()


def test_the_spots_of_an_address_are_bounded(two: Stage) -> None:
    event = two.create_event(capacity=10_000, maxSpotsPerRegistration=100)
    protect(two, event, spotsPerAddress=250)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: post(two, event, spotsCount=100), range(10)))

    assert codes(answers) == {"CONFIRMED": 2, "TOO_MANY_SPOTS_OF_ADDRESS": 8}
    assert {answer["http"] for answer in answers} == {201, 409}
    assert codes([post(two, event, spotsCount=n) for n in (51, 50, 1)]) == {
        "CONFIRMED": 1,
        "TOO_MANY_SPOTS_OF_ADDRESS": 2,
    }
    assert post(two, event, "127.0.0.2", spotsCount=100)["http"] == 201
    other = two.create_event(capacity=10_000)
    assert post(two, other)["http"] == 201
    assert two.get(f"/api/events/{event['id']}")["spotsReserved"] == 350
    protect(two, event)
    assert post(two, event)["http"] == 201


def test_a_repeated_request_is_counted_once(two: Stage) -> None:
    event = two.create_event(capacity=100)
    protect(two, event, spotsPerAddress=4)
    key = secrets.token_hex(8)
    answers = [post(two, event, key=key, spotsCount=4) for _ in range(4)]

    assert codes(answers) == {"CONFIRMED": 4}
    assert len({answer["receiptId"] for answer in answers}) == 1
    assert post(two, event)["code"] == "TOO_MANY_SPOTS_OF_ADDRESS"
    assert post(two, event, "127.0.0.2", key=key, spotsCount=4)["replayed"]
    assert post(two, event, key=key, spotsCount=1)["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert post(two, event, key=key, spotsCount=4, name="Another")["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert post(two, event)["code"] == "TOO_MANY_SPOTS_OF_ADDRESS"


def test_spots_under_one_key_are_counted_apart(servers: Servers) -> None:
    async def take() -> list[bool | None]:
        async with results.connect_async(servers.result_url) as client:
            processes = [AddressSpots(SharedMemory(client, b"a key")) for _ in range(2)]
            return [
                await spots.take(UUID(int=0), "127.0.0.1", spots.request(b"a key", count), count, 4)
                for spots in processes
                for count in (1, 4, 3, 1)
            ]

    assert asyncio.run(take()) == [True, None, True, False, False, None, False, False]


def test_spots_given_back_are_free_everywhere(servers: Servers) -> None:
    async def take() -> list[bool | None]:
        async with results.connect_async(servers.result_url) as client:
            one, other = (AddressSpots(SharedMemory(client, b"a key")) for _ in range(2))
            event, address = ids.new_id(), "127.0.0.1"
            before = [await one.take(event, address, "1", 3, 4), await other.take(event, address, "2", 2, 4)]
            await one.give_back(event, address, "1")
            return [*before, await other.take(event, address, "3", 4, 4)]

    assert asyncio.run(take()) == [True, None, True]


def test_a_crowd_passes_no_bound_while_redis_hangs() -> None:
    async def take(port: int) -> list[bool | None]:
        async with results.connect_async(f"redis://127.0.0.1:{port}/0") as client:
            spots = AddressSpots(SharedMemory(client, b"a key"))
            crowd = (spots.take(UUID(int=0), "127.0.0.1", spots.request(None, 1), 1, 2) for _ in range(5))
            return await asyncio.gather(*crowd)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert asyncio.run(take(silent.getsockname()[1])) == [True, True, None, None, None]


def test_refused_spots_are_given_back(two: Stage) -> None:
    event = two.create_event(capacity=100, maxSpotsPerRegistration=3)
    protect(two, event, spotsPerAddress=4)

    # Without a key they would be refused before they are counted.
    keys = [secrets.token_hex(8) for _ in range(4)]
    assert codes([post(two, event, key=key, spotsCount=4) for key in keys]) == {"TOO_MANY_SPOTS": 4}
    assert codes([post(two, event, spotsCount=2) for _ in range(2)]) == {"CONFIRMED": 2}


def test_redis_holds_no_address_and_no_receipt(two: Stage) -> None:
    event = two.create_event(capacity=100)
    protect(two, event, spotsPerAddress=10, challenge=True)
    answer = post(two, event, "127.0.0.77", altcha=solution(challenge(two, event)))
    keys, texts = [], []
    with results.connect(two.servers.result_url) as redis:
        for key in redis.scan_iter("*"):
            if redis.type(key) == b"hash":
                texts += [part for pair in redis.hgetall(key).items() for part in pair]
            elif redis.type(key) == b"string":
                texts.append(redis.get(key) or b"")
            keys.append(key)
            assert not key.startswith((b"admitone.", b"LIMITS")) or redis.ttl(key) > 0

    everything = b"\n".join(keys + texts)
    assert b"admitone.spots." in everything
    assert b"admitone.solved." in everything
    assert b"127.0.0.77" not in everything
    assert answer["receiptId"].encode() not in everything
    assert answer["receiptId"].replace("-", "").encode() not in everything


def test_without_redis_a_process_counts_alone(breakable: Breakable) -> None:
    stage = breakable(api_processes=0)
    stage.more_environment = {**SETTINGS, "ADMITONE_TICK_SECONDS": "0.2"}
    stage.start_api()
    stage.wait_ready()
    event = stage.create_event(capacity=100)
    protect(stage, event, spotsPerAddress=2, challenge=True)
    given = solution(challenge(stage, event))
    breakable.valkey.stop()

    assert post(stage, event, spotsCount=2, altcha=given)["http"] == 201
    assert post(stage, event, "127.0.0.2", altcha=given)["code"] == "CHALLENGE_FAILED"
    other = solution(challenge(stage, event))
    assert post(stage, event, altcha=other)["code"] == "TOO_MANY_SPOTS_OF_ADDRESS"


def test_a_proof_of_work_is_asked_for(two: Stage) -> None:
    event = two.create_event()
    with two.client() as client:
        answer = client.get(f"/api/p/{event['slug']}/challenge")
        assert (answer.status_code, answer.json()["code"]) == (404, "NO_CHALLENGE")
        assert client.get("/api/p/no-such-event/challenge").json()["code"] == "EVENT_NOT_FOUND"
    assert post(two, event, altcha="aWdub3JlZA==")["http"] == 201
    protect(two, event, challenge=True, spotsPerAddress=1)

    refused = post(two, event)
    assert (refused["http"], refused["code"]) == (403, "CHALLENGE_REQUIRED")
    assert post(two, event, altcha=None)["code"] == "CHALLENGE_REQUIRED"
    assert [post(two, event, altcha=wrong)["http"] for wrong in ("%%%", 1)] == [422] * 2
    assert post(two, event, altcha=solution(challenge(two, event)))["status"] == "CONFIRMED"
    assert (
        two.query("SELECT count(*) AS count FROM command WHERE event_id = %s", event["id"])[0]["count"] == 2
    )


def test_a_solution_is_for_one_registration(two: Stage) -> None:
    event = two.create_event(capacity=100)
    protect(two, event, challenge=True)
    given = solution(challenge(two, event))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(two, event, altcha=given), range(8)))

    assert codes(answers) == {"CONFIRMED": 1, "CHALLENGE_FAILED": 7}
    assert {answer["http"] for answer in answers} == {201, 403}


def test_a_retry_needs_no_other_solution(two: Stage) -> None:
    event = two.create_event(capacity=100)
    protect(two, event, challenge=True)
    key, given = secrets.token_hex(8), solution(challenge(two, event))
    answers = [post(two, event, key=key, altcha=given) for _ in range(4)]

    assert codes(answers) == {"CONFIRMED": 4}
    assert [answer["replayed"] for answer in answers] == [False, True, True, True]
    assert post(two, event, key=key)["replayed"]
    assert post(two, event, key=secrets.token_hex(8), altcha=given)["code"] == "CHALLENGE_FAILED"
    assert post(two, event, key=secrets.token_hex(8))["code"] == "CHALLENGE_REQUIRED"
    key, given = secrets.token_hex(8), solution(challenge(two, event))
    refused = [post(two, event, key=key, altcha=given, spotsCount=11) for _ in range(4)]
    assert codes(refused) == {"TOO_MANY_SPOTS": 4}


def tampered(payload: str, **changes: Any) -> str:
    """Return a solution with other parameters of its challenge, or of itself."""
    document = json.loads(base64.b64decode(payload))
    parameters = document["challenge"]["parameters"]
    for name, value in changes.items():
        (parameters if name in parameters else document["solution"])[name] = value
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_a_wrong_solution_is_refused(two: Stage) -> None:
    event, other = two.create_event(), two.create_event()
    for protected in (event, other):
        protect(two, protected, challenge=True)
    right, other_s = solution(challenge(two, event)), solution(challenge(two, other))
    wrong = {
        "no base64": "abcde",
        "no JSON": base64.b64encode(b"{").decode(),
        "no UTF-8": base64.b64encode(base64.b64decode(right).replace(b"PBKDF2", b"\xff")).decode(),
        "nested": base64.b64encode(b'{"":' + b"[" * 3_000).decode(),
        "another form": base64.b64encode(b'{"challenge":{},"solution":{}}').decode(),
        "another event's": other_s,
        "another event's name": tampered(other_s, data={"event": event["id"]}),
        "an easier one": tampered(right, cost=1),
        "expired": tampered(right, expiresAt=int(time.time()) - 1),
        "a later end": tampered(right, expiresAt=int(time.time()) + 9_999),
        "another key": tampered(right, derivedKey="00" * 32),
        "no key": tampered(right, derivedKey="é"),
        "another signature": tampered(right, keySignature="00" * 32),
        "forged": solution(altcha.create_challenge("SHA-256", 1, hmac_secret="x", counter=1)),
    }
    answers = {name: post(two, event, altcha=payload) for name, payload in wrong.items()}

    assert {name: answer.get("code") for name, answer in answers.items()} == dict.fromkeys(
        wrong, "CHALLENGE_FAILED"
    )
    assert post(two, event, altcha=right)["http"] == 201


def test_a_full_event_asks_for_no_solution(two: Stage) -> None:
    event = two.create_event(capacity=1, waitlistEnabled=False)
    assert codes([post(two, event) for _ in range(6)])["CONFIRMED"] == 1
    protect(two, event, challenge=True)

    assert "EVENT_FULL" in codes([post(two, event) for _ in range(8)])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"spotsPerAddress": 0}, 422),
        ({"spotsPerAddress": 10_001}, 422),
        ({"challenge": "yes"}, 422),
        ({"unknown": 1}, 422),
        ({"spotsPerAddress": None, "challenge": False}, 200),
        ({}, 200),
    ],
)
def test_a_wrong_protection_is_refused(two: Stage, body: Json, status: int) -> None:
    event = two.create_event()
    path = f"/api/events/{event['id']}/protection"
    with two.client() as client:
        off = {"spotsPerAddress": None, "challenge": False}
        assert client.get(path, headers=two.admin).json() == off
        assert client.put(path, json=body, headers=two.admin).status_code == status
        viewer = {"authorization": f"Bearer {two.viewer_key}"}
        assert client.put(path, json={}, headers=viewer).status_code == 403
        assert client.put(path, json={}).status_code == 401
        missing = path.replace(event["id"], "01a21425-ecb9-728d-8e9f-f73da8bf37ea")
        assert client.put(missing, json={}, headers=two.admin).json()["code"] == "EVENT_NOT_FOUND"
        assert client.get(missing, headers=two.admin).json()["code"] == "EVENT_NOT_FOUND"
        assert client.delete(f"/api/events/{event['id']}", headers=two.admin).status_code == 200
        assert client.put(path, json={}, headers=two.admin).json()["code"] == "EVENT_NOT_FOUND"
        assert client.get(path, headers=two.admin).json()["code"] == "EVENT_NOT_FOUND"


@pytest.mark.parametrize("known", [True, False])
def test_an_exhausted_pool_keeps_no_registration(
    settings: Settings, connection: Connection, *, known: bool
) -> None:
    guarded, _ = (InPostgres(connection, TERMS).event_id for _ in range(2))
    paths = [f"/api/p/{guarded}", f"/api/p/{TERMS['slug']}"]
    app = create_app(settings.model_copy(update={"admin_key": SecretStr("the key of an admin")}))
    later = {"prefer": "respond-async, wait=1", "authorization": "Bearer the key of an admin"}
    with TestClient(app, headers=later) as client, capture_logs() as logs:
        services, portal = app.app.state.services, client.portal
        assert portal is not None
        assert client.put(f"/api/events/{guarded}/protection", json={"challenge": True}).status_code == 200
        for path in paths:
            portal.call(services.find_event, path.rpartition("/")[2])
            if known:  # the events take parties, and which of them are protected
                client.post(f"{path}/register", json={"name": "User"})
        services.protections.fresh_until = 0.0
        services.engine.pool._timeout = 60.0 if known else 0.1  # noqa: SLF001 - a read hangs, or fails
        taken = [portal.call(services.engine.connect().start) for _ in range(services.engine.pool.size())]
        answers = [client.post(f"{path}/register", json={"name": "User"}) for path in paths]
        for held in taken:
            portal.call(held.close)

    expected = [(403, "CHALLENGE_REQUIRED"), (202, None)] if known else [(503, "LEDGER_UNAVAILABLE")] * 2
    assert [(answer.status_code, answer.json().get("code")) for answer in answers] == expected
    assert [log["event"] for log in logs].count("protections_not_readable") == (1 if known else 0)


def test_a_late_commit_of_a_change_is_seen(settings: Settings, connection: Connection) -> None:
    event_id = InPostgres(connection, TERMS).event_id
    protected = text("""
        INSERT INTO event_protection (event_id, challenge, changed_by, changed_at)
        VALUES (:event_id, true, 'admin', clock_timestamp())
    """)

    async def run() -> list[bool]:
        engine = connections.async_engine(settings)
        known = Protections(Reader(engine))
        seen = []
        with session_of(connection).transaction():
            connection.execute(protected, {"event_id": event_id})
            await known.refresh()
            seen.append(event_id in known.of_events)
        known.fresh_until = 0.0
        await known.refresh()
        seen.append(event_id in known.of_events)
        await engine.dispose()
        return seen

    assert asyncio.run(run()) == [False, True]
