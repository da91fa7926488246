"""Bodies and headers as clients of every kind send them."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from api.edge import body_fields, request_bodies
from api.edge.problems import ProblemError
from api.edge.schemas import Registering
from api.edge.schemas_admin import NewEvent, Protection, RegistrationChange
from shared.domain.commands import AddRegistration, ChangeEvent, HealCounter, Register, Status
from shared.settings import Settings

URL = "redis://nowhere"
SETTINGS = Settings(
    database_url="postgresql://nowhere/none",
    broker_url=URL,
    result_url=URL,
    email_domains_refused=frozenset({"trash.example", "xn--mll-hoa.example"}),
)
JSON = [("content-type", "application/json")]
Headers = list[tuple[str, str]]
ANN = Register(name="Ann")


def request(headers: Headers, content: bytes = b"") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw, "answer_headers": []}, receive)


def read(content: object, kind: Any = Register, headers: Headers = JSON) -> Any:  # noqa: ANN401 - any body
    encoded = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return asyncio.run(request_bodies.read(request(headers, encoded), msgspec.json.Decoder(kind), SETTINGS))


def reasons(content: object, kind: type = Register) -> Mapping[str, str]:
    with pytest.raises(ProblemError) as raised:
        read(content, kind)
    assert raised.value.status == 422
    return {error["field"]: error["reason"] for error in raised.value.more["errors"]}


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (b'{"name":"Ann"}', ANN),
        (b'\xef\xbb\xbf{"name":"Ann"}', ANN),
        (b'{"name":"\\u0041nn"}', ANN),
        ({"name": " Ann\u2028 "}, ANN),
        ({"name": "Ann", "email": ""}, ANN),
        ({"name": "Ann", "email": " \u200b"}, ANN),
        ({"name": "Ann", "email": None}, ANN),
        ({"name": "Ann", "email": "ann@EXAMPLE.org "}, Register(name="Ann", email="ann@example.org")),
        ({"name": "Ann", "email": "ann@host.test"}, Register(name="Ann", email="ann@host.test")),
        ({"name": "Zoe\u0308"}, Register(name="Zoë")),
        ({"name": "ann@home"}, Register(name="ann@home")),
        (b'{"name":"name"}', Register(name="name")),
        (b'{"name":"\\"name\\":1","email":null}', Register(name='"name":1')),
        (b'{"name":"Ann","spotsCount":2.0}', Register(name="Ann", spots_count=2)),
        (b'{"name":"Ann","spotsCount":2e0}', Register(name="Ann", spots_count=2)),
        (b'{"name":"Ann","spotsCount":0.2E1}', Register(name="Ann", spots_count=2)),
        (b'{"name":"Ann \\ud83d\\ude00"}', Register(name="Ann \U0001f600")),
        (b'{"name":"Ann \\\\ud83d"}', Register(name="Ann \\ud83d")),
    ],
)
def test_a_registration_is_taken_as_meant(content: object, command: Register) -> None:
    assert read(content) == command


NO_COUNTS: list[object] = [0, 1001, 2.5, True, "2", "", [], 1e300]
ONE_TO_THOUSAND = "must be a whole number from 1 to 1000"
TOO_LARGE = [b"1e999", b"-1E+400", b"9007199254740993", b"1" * 400, b"-" + b"1" * 5000]
UNKNOWN = "is no field of this request"
TWICE = "is there more than once"
HALF = "must not hold half of a character, as of an emoji that was cut"
AN_ADDRESS = "must be an email address, such as ann@example.org"
WITH_A_DOMAIN = "must be an email address with a domain, such as ann@example.org"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {"name": "is missing"}),
        ({"name": None}, {"name": "must be text of 1 to 200 characters"}),
        ({"name": " \u200d"}, {"name": "must be text of 1 to 200 characters"}),
        ({"name": "a" * 201}, {"name": "must be text of 1 to 200 characters"}),
        *(({"name": "Ann", "spotsCount": count}, {"spotsCount": ONE_TO_THOUSAND}) for count in NO_COUNTS),
        ({"name": "Ann", "email": "ann"}, {"email": AN_ADDRESS}),
        ({"name": "Ann", "email": 5}, {"email": AN_ADDRESS}),
        ({"name": "Ann", "email": f"ann@{'a.' * 160}org"}, {"email": WITH_A_DOMAIN}),
        ({"name": "Ann", "email": "a@trash.example"}, {"email": "must not be an address at trash.example"}),
        (
            {"name": "Ann", "email": "a@b.trash.example"},
            {"email": "must not be an address at b.trash.example"},
        ),
        ({"name": "Ann", "email": "a@müll.example"}, {"email": "must not be an address at müll.example"}),
        (b'{"name":"Ann","name":"Bob"}', {"name": TWICE}),
        (b'{"name" :"Ann","spotsCount":1,\t"name":null}', {"name": TWICE}),
        (b'{"name":"Ann","n\\u0061me":"Ann"}', {"name": TWICE}),
        (
            b'{"name":"Ann","spotsCount":1,"spotsCount":1,"email":"x@"}',
            {"spotsCount": TWICE, "email": WITH_A_DOMAIN},
        ),
        ([], {"": "must be a JSON object"}),
        (b'["\\ud800"]', {"": "must be a JSON object"}),
        (b'{"name":"Ann \\ud83d"}', {"name": HALF}),
        (b'{"name":"\\uDE00Ann"}', {"name": HALF}),
        (b'{"name":"\\ude00\\ud83d"}', {"name": HALF}),
        (b'{"name":"Ann","spotsCount":"\\ud800"}', {"spotsCount": ONE_TO_THOUSAND}),
        (b'{"name":"Ann","email":"\\ud800@example.org"}', {"email": HALF}),
        (b'{"name":"Ann","\\ud800":1}', {"?": UNKNOWN}),
        (b'{"name":"Ann","x":["\\ud800"]}', {"x": UNKNOWN}),
        *(
            (b'{"name":"Ann","spotsCount":%s}' % count, {"spotsCount": ONE_TO_THOUSAND})
            for count in TOO_LARGE
        ),
        (b'{"name":"Ann","spotsCount":1e999,"x":1e999}', {"spotsCount": ONE_TO_THOUSAND, "x": UNKNOWN}),
        ({"name": "Ann", "x" * 101: 1}, {"x" * 100: UNKNOWN}),
        ({"name": "Ann", "": 1}, {"(no name)": UNKNOWN}),
        (
            {"name": "A\nB", "spotsCount": 2.5, "email": "x@", "spots": 1},
            {
                "name": "must not hold control characters or characters that change the direction of text",
                "spotsCount": ONE_TO_THOUSAND,
                "email": WITH_A_DOMAIN,
                "spots": UNKNOWN,
            },
        ),
    ],
)
def test_a_wrong_registration_hears_every_reason(content: object, expected: Mapping[str, str]) -> None:
    assert reasons(content) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"{", "Input data was truncated"),
        (b'{"name":"\xff"}', "it is not in UTF-8"),
        (b'{"name":"\xed\xa0\x80"}', "it is not in UTF-8"),
        (b'{"name":5,,}', "JSON is malformed"),
        (b'{"name":NaN}', "JSON is malformed"),
        (b'{"name":"Ann","spotsCount":-Infinity}', "JSON is malformed"),
        (b"[" * 8_000, "it is nested too deeply"),
        (b'{"name":"\\ud83d","a":' + b"[" * 4_000 + b"]" * 4_000 + b"}", "it is nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ProblemError, match=f"The body is not valid JSON: {reason}") as raised:
        read(content)
    assert raised.value.status == 422


def test_fields_of_other_bodies_have_reasons() -> None:
    assert reasons(
        {"slug": "A b", "capacity": "9", "opensAt": "tomorrow", "promotionPolicy": "x"}, NewEvent
    ) == {
        "slug": "must be 1 to 100 lower-case letters, digits and single hyphens between them",
        "title": "is missing",
        "capacity": "must be a whole number from 0 to 1000000000",
        "promotionPolicy": "must be one of skip_unfit, strict_fifo",
        "opensAt": "must be a time with its zone, such as 2027-05-01T18:00:00Z, or null",
    }
    window = {"opensAt": "2027-05-02T00:00:00Z", "closesAt": "2027-05-01T00:00:00Z"}
    assert reasons({"slug": "a", "title": "A", "capacity": 1, **window}, NewEvent) == {
        "closesAt": "must be after opensAt"
    }
    assert reasons({"opensAt": "0001-01-01T00:00:00+14:00", "paused": 1}, ChangeEvent) == {
        "opensAt": "must be in the years 1 to 9999, in UTC",
        "paused": "must be true or false",
    }
    assert reasons({"status": "GONE"}, RegistrationChange) == {
        "status": "must be one of CONFIRMED, WAITLIST, CANCELLED"
    }


def test_other_bodies_are_taken_as_meant() -> None:
    new_event = read({"slug": " demo ", "title": "\tA drop ", "capacity": 5.0, "opensAt": ""}, NewEvent)
    assert new_event == NewEvent(slug="demo", title="A drop", capacity=5)
    assert read({"waitlistLimit": None, "title": "", "reason": " "}, ChangeEvent) == ChangeEvent(
        waitlist_limit=None
    )
    opens_at = datetime(2027, 5, 1, 18, tzinfo=UTC)
    assert read({"opensAt": "2027-05-01T18:00:00Z", "reason": " x"}, ChangeEvent) == ChangeEvent(
        opens_at=opens_at, reason="x"
    )
    assert read({"reason": ""}, HealCounter) == HealCounter()
    assert read({"status": "CANCELLED", "reason": "Zoe\u0308"}, RegistrationChange) == RegistrationChange(
        status=Status.CANCELLED, reason="Zoë"
    )


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ({"name": "Ann", "spotsCount": None, "email": None, "altcha": None}, Registering(name="Ann")),
        ({"name": "Ann", "status": None, "reason": None}, AddRegistration(name="Ann")),
        ({"title": None, "paused": None, "waitlistLimit": None}, ChangeEvent(waitlist_limit=None)),
        (
            {"status": "CANCELLED", "place": None, "name": None, "spotsCount": None},
            RegistrationChange(status=Status.CANCELLED),
        ),
        ({"status": None, "email": None}, RegistrationChange(email=None)),
        (
            {"slug": "a", "title": "A", "capacity": 1, "autoPromote": None, "promotionPolicy": None},
            NewEvent(slug="a", title="A", capacity=1),
        ),
        ({"challenge": None}, Protection()),
    ],
)
def test_null_counts_as_left_out(content: object, body: object) -> None:
    assert read(content, type(body)) == body


@given(st.text(), st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_both_ways_of_reading_agree(name: str, spots: float) -> None:
    content = msgspec.json.encode({"name": name, "spotsCount": spots})
    told: list[object] = []
    for reading in (lambda: body_fields.read(content, Register, ()), lambda: read(content)):
        try:
            told.append(reading())
        except ProblemError as error:
            told.append(error.more["errors"])
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ([("content-type", 'Application/JSON; Charset="UTF-8"')], True),
        ([("content-type", "application/json;charset=utf-8;odata=verbose")], True),
        ([("content-type", "application/json; charset=iso-8859-1")], False),
        ([("content-type", "application/jsonp")], False),
        ([("content-type", "application/json, text/plain")], False),
        ([("content-type", "application/json"), ("content-type", "text/plain")], False),
        ([("content-type", "application/json"), ("content-type", "application/json")], True),
        ([("content-type", "text/plain; application/json")], False),
        ([("content-type", f'application/json;a="{";" * 30_000}')], False),
        ([], False),
        ([*JSON, ("content-encoding", "identity")], True),
        ([*JSON, ("content-encoding", "")], True),
        ([*JSON, ("content-encoding", "gzip")], False),
        ([*JSON, ("content-encoding", "identity"), ("content-encoding", "br")], False),
    ],
)
def test_the_content_is_json_in_utf_8(headers: Headers, *, is_taken: bool) -> None:
    if is_taken:
        assert read({"name": "Ann"}, headers=headers) == ANN
        return
    with pytest.raises(ProblemError) as raised:
        read({"name": "Ann"}, headers=headers)
    assert raised.value.status == 415
    assert ("accept-encoding" in raised.value.headers) is any(
        name == "content-encoding" for name, _ in headers
    )


@pytest.mark.parametrize(
    ("lines", "wait_seconds", "applied"),
    [
        ([], 5, None),
        (["wait=1"], 1, "wait=1"),
        (["Wait = 1"], 1, "wait=1"),
        (['wait="2"; x=y'], 2, "wait=2"),
        (["wait=0"], 0, "wait=0"),
        (["wait=99999999999999999999"], 30, "wait=30"),
        ([f"wait={'9' * 5000}"], 30, "wait=30"),
        (["wait=99"], 30, "wait=30"),
        (["respond-async"], 0, "respond-async"),
        (["Respond-Async;q=1"], 0, "respond-async"),
        (["respond-async, wait=3"], 3, "respond-async, wait=3"),
        (["respond-async", "wait=3"], 3, "respond-async, wait=3"),
        (["wait=1, wait=2"], 1, "wait=1"),
        (["x-respond-async-not"], 5, None),
        (["x-wait=1"], 5, None),
        (["return=minimal; wait=1"], 5, None),
        (['foo="a, wait=1, b"'], 5, None),
        (["wait=-1"], 5, None),
        (["wait=1.5"], 5, None),
        (["wait"], 5, None),
        (["wait=\u0661".encode().decode("latin-1")], 5, None),
        ([", ,wait=1,"], 1, "wait=1"),
        (['"'], 5, None),
        ([f'wait={" " * 30_000}"'], 5, None),
        ([f'wait{" " * 30_000}"'], 5, None),
        ([f"wait{' ' * 10_000}={' ' * 10_000}2{' ' * 10_000};a"], 2, "wait=2"),
    ],
)
def test_a_preference_is_read_by_its_standard(
    lines: list[str], wait_seconds: float, applied: str | None
) -> None:
    async def wait() -> tuple[float, list[tuple[bytes, bytes]]]:
        asked = request([("prefer", line) for line in lines])
        request_bodies.deadline_of(asked, SETTINGS)
        deadline = request_bodies.deadline_of(asked, SETTINGS)  # the answer tells it once
        return deadline.decide_by - asyncio.get_running_loop().time(), asked.scope["answer_headers"]

    seconds, headers = asyncio.run(wait())
    assert seconds == pytest.approx(wait_seconds, abs=0.5)
    assert headers == ([] if applied is None else [(b"preference-applied", applied.encode())])


def key_of(lines: list[str]) -> bytes | None:
    async def ask() -> bytes | None:
        asked = request([("idempotency-key", line) for line in lines])
        return request_bodies.command_request(
            asked,
            request_bodies.deadline_of(asked, SETTINGS),
            slug="demo",
            event_id=UUID(int=1),
            command=ANN,
            actor="public",
        ).idempotency_key

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["k-1"], "k-1"),
        (['"k-1"'], "k-1"),
        ([" k-1 "], "k-1"),
        (['"k-1" ; a=b'], "k-1"),
        (["k-1", '"k-1"'], "k-1"),
        (["k-1,k-1"], "k-1"),
        (['"a, b"'], "a, b"),
        ([r'"a\"b\\c"'], r'a"b\c'),
        (["a b"], "a b"),
        (["k" * 255], "k" * 255),
    ],
)
def test_a_key_counts_by_its_value(lines: list[str], key: str) -> None:
    assert key_of(lines) == hashlib.sha256(key.encode()).digest()


@pytest.mark.parametrize(
    "lines", [[""], ['""'], ["a", "b"], ["a,b"], ['"a", "b"'], ["k" * 256], ["k\xe9"], ["k\xa0"], ["k\t1"]]
)
def test_no_key_or_two_are_refused(lines: list[str]) -> None:
    with pytest.raises(ProblemError, match="Idempotency-Key: must be one key"):
        key_of(lines)


@pytest.mark.parametrize(
    ("lines", "is_known"),
    [
        (['"a,b"'], True),
        (['W/"a,b"'], True),
        (['"x" , W/"a,b"'], True),
        (['"x"', '"a,b"'], True),
        ([" * "], True),
        (['"x,"a,b"'], False),
        (['"a'], False),
        (["a,b"], False),
        (['"*"'], False),
        (['w/"A,b"'], False),
        ([], False),
    ],
)
def test_entity_tags_are_compared_weakly(lines: list[str], *, is_known: bool) -> None:
    known = request_bodies.known_tags(request([("if-none-match", line) for line in lines]))

    assert any(tag in known for tag in ('"a,b"', "*")) is is_known
