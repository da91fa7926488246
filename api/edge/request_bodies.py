"""Reads requests: bounded JSON bodies of one type, and the headers that control the answer."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from email.message import Message
from functools import cache
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from fastapi import Query
from pydantic import BeforeValidator, Field
from starlette.requests import ClientDisconnect, Request

from api.commands.submit import CommandRequest, Deadline
from api.edge import body_fields
from api.edge.problems import ProblemError, ProblemType
from api.edge.responses import ANSWER_HEADERS
from api.edge.schemas_admin import GivenReason
from shared.domain import commands, ids
from shared.domain.commands import Command
from shared.settings import Settings

_Body = TypeVar("_Body", bound=msgspec.Struct)

IDEMPOTENCY_KEY_LENGTH_MAX = 255
_ACCEPT_SECONDS_MIN = 1.0
_TYPE_LENGTH_MAX = 200
_REASON = msgspec.json.Decoder(GivenReason)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_JSON = {UnicodeDecodeError: "it is not in UTF-8", RecursionError: "it is nested too deeply"}
_CHARSETS = {"utf-8", "utf8", "us-ascii"}

# Lists and entity tags by RFC 9110, preferences by RFC 7240, strings by RFC 9651.
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_WORD = r"[\w!#$%&'*+.^`|~-]++"
_PREFERENCE = re.compile(rf'({_WORD})(?:\s*+=\s*+(?:"([^"]*+)"|({_WORD}))?)?\s*+(?:;.*)?', re.ASCII)
_STRING = re.compile(r'"((?:[^"\\]|\\["\\])*)"\s*(?:;.*)?')
_ENTITY_TAG = re.compile(r'"[^"]*"')
# A text that counts as it is: one with an @ may be an email address, which has rules.
_PLAIN = re.compile("[!-?A-~](?:[ -?A-~]*[!-?A-~])?")
_SECONDS = re.compile("[0-9]+")
# Python and pydantic would take "+1", " 1", "1_0" and the digits of all scripts as well.
_WHOLE_NUMBER = re.compile("-?[0-9]{1,4000}")


def _whole_number(parameter: object) -> object:
    """Return a parameter of a query as it is, for pydantic to read; refuse a number in any odd spelling."""
    if isinstance(parameter, str) and not _WHOLE_NUMBER.fullmatch(parameter):
        raise ValueError("must be a whole number")
    return parameter


PageSize = Annotated[Annotated[int, Field(ge=1, le=1_000)], BeforeValidator(_whole_number), Query()]
"""The type of the parameter of a route that says how many items a page has at most."""


def _yes_or_no(parameter: object) -> object:
    """Return a parameter of a query as it is, for pydantic to read, which takes `on`, `T` and `1` as well."""
    if isinstance(parameter, str) and parameter not in {"true", "false"}:
        raise ValueError("must be true or false")
    return parameter


YesOrNo = Annotated[bool, BeforeValidator(_yes_or_no), Query()]
"""The type of a parameter of a route that is `true` or `false`."""


async def read(request: Request, decoder: "msgspec.json.Decoder[_Body]", settings: Settings) -> _Body:
    """Return the decoded body, its texts clean; raises the problem 413, 415 or 422 with the reasons."""
    lines = request.scope["headers"]  # `request.headers` looks through all lines at each search
    sent = dict(lines)
    if (
        len(sent) < len(lines)
        or sent.get(b"content-type") != b"application/json"
        or b"content-encoding" in sent
    ):
        _check_type(request)
    declared = sent.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:18]) > settings.body_bytes_max:
        raise _too_large(settings.body_bytes_max)
    content = bytearray()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > settings.body_bytes_max:
            raise _too_large(settings.body_bytes_max)
    content = content.removeprefix(_BYTE_ORDER_MARK)
    try:
        with suppress(msgspec.DecodeError):
            body = decoder.decode(content)
            # The decoder takes the last of several fields of one name. Where a name may be spelled with a
            # backslash, or a text looks like a name, the fields are looked at one by one.
            if (
                b"\\" not in content
                and max(map(content.count, _quoted_names(decoder.type))) < 2  # noqa: PLR2004 - more than once
                and all(type(v) is not str or _PLAIN.fullmatch(v) for v in msgspec.structs.astuple(body))
            ):
                return body
        # The fields tell what is wrong, or take what the decoder is too strict for.
        return body_fields.read(content, decoder.type, settings.email_domains_refused or ())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = _NO_JSON.get(type(error), str(error)) if content else "it is empty"
        raise invalid(f"The body is not valid JSON: {reason}.") from error


async def read_reason(request: Request, settings: Settings) -> str | None:
    """Return the reason of the body, None if there is no body."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return None
    return (await read(request, _REASON, settings)).reason


def command_request(  # noqa: PLR0913 - one parameter for each part of a request
    request: Request, due: Deadline, *, slug: str, event_id: UUID, command: Command, actor: str
) -> CommandRequest:
    """Return the request for this command, with the key of the request's header."""
    kind, payload = commands.KINDS[type(command)], msgspec.json.encode(command)
    key = former_key = None
    if b"idempotency-key" in dict(request.scope["headers"]):
        # No public key is the key of an admin, for any characters.
        prefix = "" if actor in commands.PUBLIC_ACTORS else "admin\0"
        key = key_digest(request, prefix)
        former_key = None if prefix else _former_key_digest(request, key)
    return CommandRequest(
        event_id=event_id,
        id=ids.new_id(),
        kind=kind,
        payload=payload,
        actor=actor,
        idempotency_key=key,
        former_key=former_key,
        fingerprint=hashlib.sha256(kind.encode() + b"\0" + payload).digest() if key else None,
        version=commands.version_of(command),
        slug=slug,
        deadline=due,
    )


def key_digest(request: Request, prefix: str) -> bytes:
    """Return the digest of the request's one idempotency key, a string or bare, behind `prefix`."""
    keys = {
        re.sub(r"\\(.)", r"\1", string[1]) if (string := _STRING.fullmatch(member)) else member
        for member in _members(request, "idempotency-key")
    }
    key = keys.pop() if len(keys) == 1 else ""
    if not 0 < len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        rule = f"must be one key of 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable ASCII characters"
        raise body_fields.invalid({"Idempotency-Key": rule})
    return hashlib.sha256(f"{prefix}{key}".encode()).digest()


def _former_key_digest(request: Request, digest: bytes) -> bytes | None:
    """Return the digest of the key as versions up to migration 0008 took it, None if that is the same.

    They took the first line as it came, the quotes of a string included.
    """
    former = hashlib.sha256(request.headers["idempotency-key"].encode()).digest()
    return None if former == digest else former


def deadline_of(request: Request, settings: Settings, wait_seconds: float | None = None) -> Deadline:
    """Return the deadline of a request that begins now and waits so long for its outcome.

    Without `wait_seconds` that is a setting, or the preference of the request's header (RFC 7240). Accepting
    has the same time, and at least a second; for a client that does not wait it has the setting's.
    """
    if wait_seconds is None:
        wait_seconds = settings.answer_wait_seconds
        if b"prefer" in dict(request.scope["headers"]):
            wait_seconds = _preferred_seconds(request, settings)
    now = asyncio.get_running_loop().time()
    accept_by = now + max(wait_seconds or settings.answer_wait_seconds, _ACCEPT_SECONDS_MIN)
    return Deadline(accept_by=accept_by, decide_by=now + wait_seconds)


def _preferred_seconds(request: Request, settings: Settings) -> float:
    """Return the seconds that the client prefers to wait; the answer tells which preferences count."""
    wait_seconds, applied = settings.answer_wait_seconds, []
    preferences: dict[str, str] = {}
    for member in _members(request, "prefer"):
        if preference := _PREFERENCE.fullmatch(member):
            name, quoted, token = preference.groups(default="")
            preferences.setdefault(name.lower(), quoted or token)
    if "respond-async" in preferences:
        wait_seconds = 0
        applied.append("respond-async")
    if _SECONDS.fullmatch(preferences.get("wait", "")):
        wait_seconds = min(float(preferences["wait"]), settings.answer_wait_seconds_max)
        applied.append(f"wait={wait_seconds:g}")
    if applied:
        header = b"preference-applied", ", ".join(applied).encode()
        if header not in request.scope[ANSWER_HEADERS]:
            request.scope[ANSWER_HEADERS].append(header)
    return wait_seconds


def known_tags(request: Request) -> list[str]:
    """Return the entity tags that the client has, compared weakly; `*` stands for any (`If-None-Match`)."""
    known = ",".join(request.headers.getlist("if-none-match"))
    return ["*"] if known.strip() == "*" else _ENTITY_TAG.findall(known)


def false_cursor() -> ProblemError:
    """Return the problem of a cursor that no page of the list has."""
    return body_fields.invalid({"cursor": "is not the nextCursor of a page"})


def invalid(detail: str) -> ProblemError:
    """Return the problem of a request that can never succeed."""
    return ProblemType.INVALID_REQUEST.error(detail)


@cache
def _quoted_names(kind: type[msgspec.Struct]) -> Sequence[bytes]:
    """Return the names of a body's fields, as JSON has them."""
    return [msgspec.json.encode(name) for name in kind.__struct_encode_fields__]


def _check_type(request: Request) -> None:
    """Refuse a body that is not JSON in UTF-8, or that is compressed."""
    for line in request.headers.getlist("content-type") or [""]:
        message = Message()
        message["content-type"] = line if len(line) <= _TYPE_LENGTH_MAX else ""  # the parser takes its square
        is_json = message.get_content_type() == "application/json"
        if not is_json or message.get_content_charset("utf-8") not in _CHARSETS:
            raise ProblemType.UNSUPPORTED_MEDIA_TYPE.error()
    if {coding.lower() for coding in _members(request, "content-encoding")} - {"identity"}:
        raise ProblemType.UNSUPPORTED_MEDIA_TYPE.error(
            "Send the body without a Content-Encoding.", headers={"accept-encoding": "identity"}
        )


def _members(request: Request, header: str) -> list[str]:
    """Return the members of a header that is a list, from all its lines, a quoted comma kept."""
    members = _MEMBER.findall(",".join(request.headers.getlist(header)))
    return [stripped for member in members if (stripped := member.strip(" \t"))]


def _too_large(bytes_max: int) -> ProblemError:
    return ProblemType.BODY_TOO_LARGE.error(f"The body may have at most {bytes_max} bytes.")
