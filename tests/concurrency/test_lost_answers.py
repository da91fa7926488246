"""Keys under concurrency: clients that lose answers and ask again, over two API processes."""

import json
import random
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.stage import Json, Stage

CLIENTS, TRIES = 8, 40
KEYS = [f"key-{number}" for number in range(24)]
SUCCESS, REFUSED, OTHER_BODY = 201, 409, 422


@pytest.fixture
def two_processes(stage: Stage) -> Iterator[Stage]:
    """The stage with one more API process on its socket."""
    process = stage.start_api()
    try:
        stage.wait_ready()
        yield stage
    finally:
        stage.end(process)


def ask(client: httpx2.Client, event: Json, key: str, body: Json) -> httpx2.Response:
    return client.post(f"/api/p/{event['slug']}/register", json=body, headers={"idempotency-key": key})


def ask_and_leave(stage: Stage, event: Json, key: str, body: Json) -> None:
    """Send a request, and be gone before the answer."""
    url, content = urlsplit(stage.url), json.dumps(body).encode()
    head = (
        f"POST /api/p/{event['slug']}/register HTTP/1.1\r\nHost: {url.netloc}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
        connection.sendall(head.encode() + content)


@pytest.mark.parametrize("seed", range(2))
def test_a_key_has_one_registration_at_most(two_processes: Stage, seed: int) -> None:
    stage = two_processes
    event = stage.create_event(capacity=6, waitlistLimit=4)
    answers: dict[str, list[httpx2.Response]] = defaultdict(list)
    noting, over = threading.Lock(), threading.Event()

    def crowd(number: int) -> None:
        seeded = random.Random(seed * CLIENTS + number)  # noqa: S311 - reproducible, not secret
        with stage.client() as client:
            for _ in range(TRIES):
                key = seeded.choice(KEYS)
                body = {"name": key, "spotsCount": seeded.choice([1, 1, 2])}
                if seeded.random() < 0.3:
                    ask_and_leave(stage, event, key, body)
                    continue
                answer = ask(client, event, key, body)
                with noting:
                    answers[key].append(answer)

    def organiser() -> None:
        """Pause and go on, and make and take room, so that many refusals pass."""
        seeded = random.Random(seed)  # noqa: S311
        with stage.client() as client:
            path = f"/api/events/{event['id']}"
            while not over.is_set():
                limit, paused = seeded.randint(0, 12), seeded.random() < 0.4
                settings = {"waitlistLimit": limit, "paused": paused}
                assert client.patch(path, json=settings, headers=stage.admin).status_code == 200

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        organising = pool.submit(organiser)
        try:
            list(pool.map(crowd, range(CLIENTS)))
        finally:
            over.set()
        organising.result()
        with stage.client() as client:  # room for all: every key gets in, whatever it was told before
            settings = {"waitlistLimit": None, "paused": False}
            client.patch(f"/api/events/{event['id']}", json=settings, headers=stage.admin)
            last = {
                key: [ask(client, event, key, {"name": key, "spotsCount": n}) for n in (1, 2)] for key in KEYS
            }

    registrations = stage.registrations(event)
    assert sorted(one["name"] for one in registrations) == sorted(KEYS)
    for key, ended in last.items():
        assert sorted(answer.status_code for answer in ended) == [SUCCESS, OTHER_BODY], key
        receipts = {a.json()["receiptId"] for a in answers[key] + ended if a.status_code == SUCCESS}
        assert len(receipts) == 1, key
        assert {a.status_code for a in answers[key]} <= {SUCCESS, REFUSED, OTHER_BODY}
    assert stage.query("SELECT count(*) AS n FROM idempotency_key WHERE event_id = %s", event["id"]) == [
        {"n": len(KEYS)}
    ], "refusals keep no key"
