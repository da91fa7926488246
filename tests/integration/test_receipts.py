"""Receipts are secrets: taken from a header as from the path; never in Redis, in messages or in logs."""

import base64
import codecs
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import redis

from ops.embedded import Servers
from shared.domain import ids
from shared.messaging import results
from tests.stage import Stage


def bearer(receipt: object) -> Mapping[str, str]:
    return {"authorization": f"Bearer {receipt}"}


def test_a_header_does_what_the_path_does(stage: Stage) -> None:
    event = stage.create_event()
    path = f"/api/p/{event['slug']}/receipt"
    with stage.client() as client:
        made = client.post(f"/api/p/{event['slug']}/register", json={"name": "User", "spotsCount": 3})
        mine = bearer(made.json()["receiptId"])
        by_path, by_header = client.get(made.headers["location"]), client.get(path, headers=mine)
        known = client.get(path, headers={**mine, "if-none-match": by_path.headers["etag"]})
        head = client.head(path, headers=mine)
        shrunk = client.patch(path, headers=mine, json={"spotsCount": 1})
        cancelled = client.delete(path, headers={**mine, "idempotency-key": "k"})
        replayed = client.delete(path, headers={**mine, "idempotency-key": "k"})
        now = client.get(made.headers["location"])

    assert by_header.json() == by_path.json()
    assert by_header.headers["etag"] == by_path.headers["etag"]
    assert (known.status_code, head.status_code, head.content) == (304, 200, b"")
    assert (shrunk.status_code, shrunk.json()["registration"]["spotsCount"]) == (200, 1)
    assert (cancelled.json()["toStatus"], cancelled.json()["changed"]) == ("CANCELLED", True)
    assert replayed.headers["idempotent-replayed"] == "true"
    assert now.json()["status"] == "CANCELLED"
    for answer in (by_header, known, head, shrunk, cancelled):
        assert answer.headers["vary"] == "Authorization"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ([], 401, "UNAUTHORIZED"),
        (["Basic dXNlcjo="], 401, "UNAUTHORIZED"),
        (["Bearer"], 401, "UNAUTHORIZED"),
        (["Bearer {receipt}", "Bearer {receipt}"], 401, "UNAUTHORIZED"),
        (["Bearer {receipt} {receipt}"], 401, "UNAUTHORIZED"),
        (["Bearer nonsense"], 404, "RECEIPT_NOT_FOUND"),
        (["Bearer {other}"], 404, "RECEIPT_NOT_FOUND"),
        (["bearer  {receipt}"], 200, None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_header_has_one_receipt(
    stage: Stage, method: str, sent: list[str], status: int, code: str | None
) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).json()["receiptId"]
        headers = [("authorization", value.format(receipt=receipt, other=uuid4())) for value in sent]
        body = {"spotsCount": 1} if method == "PATCH" else None
        answer = client.request(method, f"/api/p/{event['slug']}/receipt", headers=headers, json=body)

    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert answer.headers["vary"] == "Authorization"
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("blanks", [" ", "\t", " \t "])
def test_blanks_behind_a_receipt_do_not_count(stage: Stage, blanks: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).json()["receiptId"]
    with closing(HTTPConnection(stage.url.removeprefix("http://"), timeout=30)) as connection:
        sent = {"authorization": f"Bearer {receipt}{blanks}"}
        connection.request("GET", f"/api/p/{event['slug']}/receipt", headers=sent)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["receiptId"]) == (200, receipt)


def test_a_task_id_does_not_contain_its_receipt() -> None:
    command_id = ids.new_id()
    task_id, key = ids.task_id(command_id), results.key(command_id)

    assert task_id == ids.task_id(command_id) != ids.task_id(ids.new_id())
    assert key.endswith(task_id)
    assert not any(spelling in key.encode() + UUID(task_id).bytes for spelling in spellings(command_id))


def use_receipts(stage: Stage) -> list[UUID]:
    """Register, poll, wait, shrink, cancel and be promoted, by path and by header; return all receipts."""
    event = stage.create_event(capacity=3)
    path = f"/api/p/{event['slug']}"
    with stage.client() as client:
        answers = [client.post(f"{path}/register", json={"name": "User"}) for _ in range(2)]
        sent = [{"prefer": "respond-async"}, {"idempotency-key": "k"}, {"idempotency-key": "k"}, {}]
        for headers in sent:
            party = {"name": "Party", "spotsCount": 2}
            answers.append(client.post(f"{path}/register", json=party, headers=headers))
        answers.append(client.post(f"{path}/register", json={"name": "User", "spotsCount": 9}))
        for answer in list(answers):
            receipt = answer.json()["receiptId"]
            settled = client.get(f"{answer.headers['location']}?wait=30")
            tag = {"if-none-match": settled.headers["etag"]}
            answers.append(client.get(f"{path}/receipt?wait=0.1", headers={**bearer(receipt), **tag}))
            answers.append(client.patch(f"{path}/receipt", json={"spotsCount": 1}, headers=bearer(receipt)))
        answers += [client.delete(answer.headers["location"]) for answer in answers[:2]]
        answers.append(client.delete(f"{path}/receipt", headers=bearer(answers[2].json()["receiptId"])))
        renewed = stage.registrations(event)[3]["id"]
        given = f"/api/events/{event['id']}/registrations/{renewed}/receipt"
        answers.append(client.post(given, headers=stage.admin))
    return [receipt for answer in answers for receipt in receipts_of(answer)]


def receipts_of(answer: httpx2.Response) -> Iterator[UUID]:
    """Yield the receipts of an answer: its registration's, and that of the command itself."""
    if "location" in answer.headers:
        yield UUID(answer.headers["location"].rpartition("/")[2])
    if answer.content and "receiptId" in answer.json():
        yield UUID(answer.json()["receiptId"])


def test_redis_never_sees_a_receipt(stage: Stage) -> None:
    """All that is written, read, published and kept, as Redis' own monitor and its keys show it."""
    urls = (stage.servers.broker_url, stage.servers.result_url)
    mark = secrets.token_hex(8).encode()
    with ExitStack() as stack:
        broker, client = (stack.enter_context(results.connect(url)) for url in urls)
        monitor = stack.enter_context(client.monitor())
        heard = stack.enter_context(client.pubsub())
        heard.psubscribe("*")
        receipts = use_receipts(stage)
        client.echo(mark)  # the last that the monitor tells
        seen = b""
        while b'"ECHO" "%b"' % mark not in seen:
            seen += _unescaped(monitor.connection.read_response()) + b"\n"
        channel = results.channel(client).encode()
        published = b"\n".join(_messages(heard))
        kept = b"\n".join(part for each in (broker, client) for part in _contents(each))

    whole = seen + published + kept
    whole += b"\n".join(_decoded_parts(whole))
    assert len(set(receipts)) > 12
    assert b'"LPUSH"' in seen, "wake messages were sent"
    assert b'"apply_commands"' in whole, "in base64"
    assert channel in published, "batches were announced"
    assert ids.task_id(receipts[0]).encode() in kept, "results were kept"
    assert not [spelling for id_ in set(receipts) for spelling in spellings(id_) if spelling in whole]


def test_logs_never_show_a_receipt(servers: Servers, database: str, tmp_path: Path) -> None:
    unstarted = Stage(servers, database, tmp_path)
    unstarted.more_environment = {"ADMITONE_LOG_LEVEL": "DEBUG", "ADMITONE_LOG_FORMAT": "json"}
    with unstarted as stage:
        receipts = use_receipts(stage)
        path = f"/api/p/{stage.get('/api/events')['items'][0]['slug']}"
        stage.query("ALTER TABLE outcome RENAME TO outcome_before")  # so that requests fail
        with stage.client() as client:
            by_path = client.get(f"{path}/receipts/{receipts[0]}")
            by_header = client.get(f"{path}/receipt", headers=bearer(receipts[0]))
            cancelled = client.delete(f"{path}/receipts/{receipts[0]}")
        log = stage.log().encode()

    assert [answer.status_code for answer in (by_path, by_header, cancelled)] == [503] * 3
    assert b'"level": "debug"' in log
    assert not [spelling for id_ in set(receipts) for spelling in spellings(id_) if spelling in log]


def spellings(id_: UUID) -> list[bytes]:
    """Return an id as text, as bytes, and as the base64 of both wherever they begin in a longer value."""
    hexadecimal = (str(id_), id_.hex, str(id_).upper(), id_.hex.upper())
    plain = [*(text.encode() for text in hexadecimal), id_.bytes, str(id_.int).encode()]
    in_base64 = []
    for value in plain:
        for before in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                encoded = encode(bytes(before) + value).rstrip(b"=")
                in_base64.append(encoded[4 * (before > 0) : -1])  # the ends mix with their neighbours
    return plain + in_base64


def _unescaped(line: bytes) -> bytes:
    """Return a line of the monitor with its arguments as they were sent."""
    unescaped, _ = codecs.escape_decode(line)
    assert isinstance(unescaped, bytes)
    return unescaped


def _messages(heard: "redis.client.PubSub") -> Iterator[bytes]:
    """Yield the channels and the texts of all published messages."""
    while (message := heard.get_message(timeout=0.5)) is not None:
        if message["type"] == "pmessage":
            yield from (message["channel"], message["data"])


def _contents(client: "redis.Redis") -> Iterator[bytes]:
    """Yield all keys of a database, and their values of whatever type."""
    untyped: Any = client  # its types have all answers of all versions of the protocol
    for key in untyped.scan_iter():
        yield key
        match untyped.type(key):
            case b"string":
                yield untyped.get(key) or b""
            case b"list":
                yield from untyped.lrange(key, 0, -1)
            case b"set":
                yield from untyped.smembers(key)
            case b"hash":
                yield from (part for pair in untyped.hgetall(key).items() for part in pair)
            case b"zset":
                yield from untyped.zrange(key, 0, -1)
            case b"none":
                pass  # it has expired meanwhile
            case other:
                pytest.fail(f"a key of the type {other!r}, whose value this test does not read")


def _decoded_parts(seen: bytes) -> Iterator[bytes]:
    """Yield all that is base64."""
    for part in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", seen):
        with suppress(ValueError):
            yield base64.b64decode(part)
