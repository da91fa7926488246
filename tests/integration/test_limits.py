"""Limits per client, from outside: by address and by key, over two processes, without Redis."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.embedded import Servers
from tests.stage import Breakable, Json, Stage

ALLOWED = 20
WINDOW_SECONDS = 60
SHORT_SECONDS = 3
LIMIT = f"{ALLOWED}/{WINDOW_SECONDS}s"
PROXY = "127.0.0.99"
SETTINGS = {
    "ADMITONE_LIMIT_READS": LIMIT,
    "ADMITONE_LIMIT_RECEIPTS": f"2/{SHORT_SECONDS}s",
    "ADMITONE_LIMIT_REGISTER": LIMIT,
    "ADMITONE_LIMIT_KEYS": LIMIT,
    "ADMITONE_TRUSTED_PROXIES": PROXY,
}
NOBODY = "/api/p/no-such-event"


@pytest.fixture(scope="module")
def limited(
    servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A service with limits."""
    unstarted = Stage(servers, module_database, tmp_path_factory.mktemp("limited"))
    unstarted.more_environment = SETTINGS
    with unstarted as stage:
        yield stage


class Visitors:
    """Clients with addresses of their own, each on one connection."""

    def __init__(self, stage: Stage) -> None:
        self._url = stage.url
        self._stack = ExitStack()
        self._clients: dict[str, httpx2.Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, address: str, path: str = NOBODY, **headers: str) -> httpx2.Response:
        """Send a request from this address of the machine."""
        if address not in self._clients:
            transport = httpx2.HTTPTransport(local_address=address)
            client = httpx2.Client(base_url=self._url, transport=transport, timeout=30)
            self._clients[address] = self._stack.enter_context(client)
        return self._clients[address].get(path, headers=headers)

    def statuses(self, address: str, count: int, path: str = NOBODY, **headers: str) -> Counter[int]:
        """Send requests one after another; return how many had each status."""
        return Counter(self.get(address, path, **headers).status_code for _ in range(count))


def within_a_window() -> None:
    """Return where the window does not end soon."""
    left = WINDOW_SECONDS - time.time() % WINDOW_SECONDS
    if left < WINDOW_SECONDS / 2:
        time.sleep(left)


def counted(stage: Stage) -> dict[str, float]:
    """Return the requests that were answered 429, by limit."""
    with stage.client() as client:
        families = text_string_to_metric_families(client.get("/metrics").text)
    found = [family for family in families if family.name == "admitone_requests_limited"]
    return {sample.labels["limit"]: sample.value for family in found for sample in family.samples}


def test_each_address_has_its_limit(limited: Stage) -> None:
    before = counted(limited).get("reads", 0)
    with Visitors(limited) as visitors:
        within_a_window()

        assert visitors.statuses("127.0.0.2", ALLOWED + 5) == {404: ALLOWED, 429: 5}
        assert visitors.statuses("127.0.0.3", ALLOWED) == {404: ALLOWED}
        assert visitors.get("127.0.0.2", "/healthz").status_code == 200
        assert visitors.get("127.0.0.2", "/readyz").status_code == 200
        assert visitors.get("127.0.0.2", f"{NOBODY}/receipts/1").status_code == 404  # of another class
    deadline = time.monotonic() + 10
    while (found := counted(limited)["reads"]) != before + 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == before + 5


def test_retry_after_is_honest(limited: Stage) -> None:
    path = f"{NOBODY}/receipts/1"
    with Visitors(limited) as visitors:
        while (last := visitors.get("127.0.0.4", path)).status_code != 429:
            pass
        told, told_at = int(last.headers["retry-after"]), time.time()
        problem: Json = last.json()
        time.sleep(told)
        after = visitors.get("127.0.0.4", path)

    assert problem["code"] == "TOO_MANY_REQUESTS"
    assert last.headers["ratelimit-policy"] == f'"receipts";q=2;w={SHORT_SECONDS}'
    assert last.headers["ratelimit"] == f'"receipts";r=0;t={told}'
    assert last.headers["x-request-id"] == problem["requestId"]
    assert 1 <= told <= SHORT_SECONDS
    assert (told_at + told) // SHORT_SECONDS > (told_at - 1) // SHORT_SECONDS
    assert after.status_code == 404


def test_headers_tell_what_is_left(limited: Stage) -> None:
    with Visitors(limited) as visitors:
        within_a_window()
        told = [visitors.get("127.0.0.5").headers.get("ratelimit", "") for _ in range(ALLOWED)]

    half = ALLOWED // 2
    assert told[:half] == [""] * half
    assert [text.split(";")[1] for text in told[half:]] == [f"r={n}" for n in range(half - 1, -1, -1)]


def test_only_a_trusted_proxy_names_the_client(limited: Stage) -> None:
    with Visitors(limited) as visitors:
        within_a_window()
        spoofed = [
            visitors.get(
                "127.0.0.6", **{"x-forwarded-for": f"203.0.113.{n}", "forwarded": f"for=192.0.2.{n}"}
            )
            for n in range(ALLOWED + 5)
        ]
        assert Counter(answer.status_code for answer in spoofed) == {404: ALLOWED, 429: 5}

        by_proxy = [
            visitors.statuses(PROXY, ALLOWED, **{"x-forwarded-for": f"198.51.100.1, 203.0.113.{n}"})
            for n in range(2)
        ]
        assert by_proxy == [{404: ALLOWED}] * 2
        one_network = [
            visitors.get(PROXY, forwarded=f'for="[2001:db8:0:1::{n:x}]:443"').status_code
            for n in range(ALLOWED + 5)
        ]
        assert Counter(one_network) == {404: ALLOWED, 429: 5}


def test_changes_have_a_limit_of_their_own(limited: Stage) -> None:
    receipt = f"{NOBODY}/receipts/01a21425-ecb9-728d-8e9f-f73da8bf37ea"
    changes = cycle([("POST", f"{NOBODY}/register"), ("DELETE", receipt), ("PATCH", receipt)])
    with limited.client() as client:
        within_a_window()
        answers = [client.request(*change, json={"name": "User"}) for change in islice(changes, ALLOWED + 5)]

        assert [answer.status_code == 429 for answer in answers] == [False] * ALLOWED + [True] * 5
        assert client.get(NOBODY).status_code == 404


def test_two_processes_count_together(servers: Servers, database: str, tmp_path: Path) -> None:
    unstarted = Stage(servers, database, tmp_path, workers=1, api_processes=2)
    unstarted.more_environment = {
        "ADMITONE_LIMIT_READS": f"100/{WINDOW_SECONDS}s",
        "ADMITONE_API_PROCESSES": "2",
    }
    with unstarted as stage:
        within_a_window()
        admitted = Counter[str]()
        with ExitStack() as stack:
            # On connections of their own: the kernel spreads them over the processes.
            clients = [stack.enter_context(stage.client()) for _ in range(16)]
            for _ in range(30):
                for client in clients:
                    answer = client.get(NOBODY)
                    admitted[str(answer.status_code)] += 1
                time.sleep(0.02)

    assert 100 <= admitted["404"] <= 150
    assert admitted["404"] + admitted["429"] == 480


def test_without_redis_each_process_counts_alone(breakable: Breakable) -> None:
    stage = breakable(api_processes=0)
    stage.more_environment = {**SETTINGS, "ADMITONE_API_PROCESSES": "2"}
    stage.start_api()
    stage.wait_ready()
    with Visitors(stage) as visitors:
        breakable.valkey.stop()
        within_a_window()
        visitors.statuses("127.0.0.3", ALLOWED)  # the process learns that Redis is away
        alone = visitors.statuses("127.0.0.2", ALLOWED + 5)
        breakable.valkey.start()
        breakable.valkey.wait_ready()
        admitted = [ALLOWED // 2]
        while len(admitted) < 100 and admitted[-1] != ALLOWED:  # it asks again after a moment
            time.sleep(0.2)
            within_a_window()
            admitted.append(visitors.statuses(f"127.0.1.{len(admitted)}", ALLOWED + 5)[404])

    assert alone == {404: ALLOWED // 2, 429: ALLOWED // 2 + 5}
    assert admitted[-1] == ALLOWED


def test_a_key_has_a_limit(limited: Stage) -> None:
    with limited.client() as client:
        viewer = {"authorization": f"Bearer {limited.viewer_key}"}
        within_a_window()
        statuses = Counter(
            client.get("/api/events", headers=limited.admin).status_code for _ in range(ALLOWED + 5)
        )
        assert statuses == {200: ALLOWED, 429: 5}
        assert client.get("/api/events", headers=viewer).status_code == 200
        assert client.get("/api/events").status_code == 401
