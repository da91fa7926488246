"""Idempotency keys in every spelling, over an upgrade: drawn clients, two API processes, lost answers.

Each client registers under a key of its own. It asks an API process of the earlier version, then those of
this version, and keeps asking: many of its answers are lost.
"""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ops.embedded import Servers
from tests.stage import Json, Stage

pytestmark = pytest.mark.timeout(600)  # installing the packages of another version is counted

SUCCESS, OTHER_BODY = 201, 422
Lines = list[str]


def quoted(key: str) -> str:
    """Return a key as a string of RFC 9651, as the draft of the header has it."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


BARE: Sequence[Callable[[str], Lines]] = (
    lambda key: [key],
    lambda key: [f" \t{key}"],
    lambda key: [key, key],
)
BLANK_BEHIND: Sequence[Callable[[str], Lines]] = (lambda key: [f"{key}  "],)
QUOTED: Sequence[Callable[[str], Lines]] = (
    lambda key: [quoted(key)],
    lambda key: [f"{quoted(key)};ordered"],
    lambda key: [f'{quoted(key)} ; by="a, b"'],
    lambda key: [f"{quoted(key)}, {quoted(key)}"],
    lambda key: [quoted(key), quoted(key)],
)
KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12)


class Client(NamedTuple):
    """A key, its spelling before the upgrade and those after it; True stands for an answer that is lost."""

    key: str
    spelling: Callable[[str], Lines]
    before: list[bool]
    after: list[tuple[Callable[[str], Lines], bool]]


@st.composite
def clients(draw: st.DrawFn) -> Client:
    """Draw a client, which keeps to its spelling if an earlier version would know its key in no other."""
    key = draw(KEYS)
    bare = key == key.strip() and not set(key) & set('",')
    spellings = [*BARE, *BLANK_BEHIND, *QUOTED] if bare else QUOTED
    spelling = draw(st.sampled_from(spellings))
    before = draw(st.lists(st.booleans(), max_size=2))
    others = st.sampled_from(spellings) if not before or spelling in BARE else st.just(spelling)
    after = draw(st.lists(st.tuples(others, st.booleans()), min_size=1, max_size=4))
    return Client(key, spelling, before, after)


def apart(crowd: list[Client]) -> bool:
    """Return True if no key is the spelling of another one, which an earlier version may have kept."""
    values = Counter(client.key for client in crowd)
    spelled = Counter(
        line
        for client in crowd
        for line in {
            lines(client.key)[0].strip() for lines in (client.spelling, *(s for s, _ in client.after))
        }
        if line != client.key
    )
    return max(values.values()) == 1 and not values.keys() & spelled.keys()


CROWDS = st.lists(clients(), min_size=1, max_size=4).filter(apart)


class Versions(NamedTuple):
    """A service of this version, and an API process of the earlier one on the same database."""

    now: Stage
    earlier: Stage


@pytest.fixture(scope="module")
def versions(
    servers: Servers, module_database: str, promised: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Versions]:
    """Two API processes of this version, and one of the earlier version."""
    folder = tmp_path_factory.mktemp
    with (
        Stage(servers, module_database, folder("now"), api_processes=2) as now,
        Stage(servers, module_database, folder("earlier"), workers=0, api_processes=0) as earlier,
    ):
        earlier.start_api(promised)
        earlier.wait_ready()
        yield Versions(now, earlier)


def ask(url: str, event: Json, lines: Lines, body: Json, *, leave: bool = False) -> tuple[int, Json]:
    """Register with these lines of the header; who leaves is gone before the answer."""
    address, content = urlsplit(url), json.dumps(body).encode()
    head = [
        f"POST /api/p/{event['slug']}/register HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *(f"Idempotency-Key: {line}" for line in lines),
    ]
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
        if leave:
            return 0, {}
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            while answer.readline().strip():
                pass
            return status, json.loads(answer.read())


@examples(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(crowd=CROWDS)
def test_a_key_is_one_registration_over_an_upgrade(versions: Versions, crowd: list[Client]) -> None:
    now, earlier = versions
    event = now.create_event(capacity=len(crowd), maxSpotsPerRegistration=2)

    def register(client: Client) -> tuple[set[str], int]:
        """Return the receipts that a client was told, and the status for its key with another body."""
        body = {"name": f"Holder of {quoted(client.key)}"}
        # An answer of the earlier version is lost after its commit: its process ends before the next request.
        answers = [ask(earlier.url, event, client.spelling(client.key), body) for _ in client.before]
        answers = [answer for answer, lost in zip(answers, client.before, strict=True) if not lost]
        answers += [ask(now.url, event, lines(client.key), body, leave=lost) for lines, lost in client.after]
        last = client.after[-1][0](client.key)
        answers.append(ask(now.url, event, last, body))
        other, _ = ask(now.url, event, last, {**body, "spotsCount": 2})
        answers = [answer for answer in answers if answer != (0, {})]
        assert {status for status, _ in answers} == {SUCCESS}, answers
        return {told["receiptId"] for _, told in answers}, other

    with ThreadPoolExecutor(len(crowd)) as pool:
        told = list(pool.map(register, crowd))

    assert [(len(receipts), other) for receipts, other in told] == [(1, OTHER_BODY)] * len(crowd)
    names = [registration["name"] for registration in now.registrations(event)]
    assert sorted(names) == sorted(f"Holder of {quoted(client.key)}" for client in crowd)
