"""Reads requests: bounded JSON bodies of one type, and the headers that control the answer."""

import hashlib
import re
from typing import TypeVar
from uuid import UUID

import msgspec
from email_validator import EmailNotValidError, validate_email
from msgspec import UnsetType
from starlette.requests import Request

from api.commands import deadline
from api.commands.deadline import Deadline
from api.commands.submit import CommandRequest
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas import GivenReason
from shared.domain import commands, ids
from shared.domain.commands import Command, Register
from shared.settings import Settings

_Body = TypeVar("_Body")

IDEMPOTENCY_KEY_LENGTH_MAX = 255
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_REGISTER = msgspec.json.Decoder(Register)
_REASON = msgspec.json.Decoder(GivenReason)


async def read(request: Request, decoder: "msgspec.json.Decoder[_Body]", bytes_max: int) -> _Body:
    """Return the decoded body; raises the problem 413, 415 or 422 with the reason."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ProblemType.UNSUPPORTED_MEDIA_TYPE.error()
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > bytes_max:
            raise _too_large(bytes_max)
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise invalid(sentence(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The body is not valid JSON: {error}.") from error


async def read_registration(request: Request, settings: Settings) -> Register:
    """Return the registration of the body, its email address in normal form."""
    command = await read(request, _REGISTER, settings.body_bytes_max)
    return msgspec.structs.replace(command, email=normal_email(command.email))


def normal_email(email: str | UnsetType | None) -> str | UnsetType | None:
    """Return an email address, if there is one, in normal form."""
    if not isinstance(email, str):
        return email
    try:
        return validate_email(email, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise invalid(f"email: {error}") from error


async def read_reason(request: Request, settings: Settings) -> str | None:
    """Return the reason of the body, None if there is no body."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return None
    return (await read(request, _REASON, settings.body_bytes_max)).reason


def command_request(  # noqa: PLR0913 - one parameter for each part of a request
    request: Request, due: Deadline, *, slug: str, event_id: UUID, command: Command, actor: str
) -> CommandRequest:
    """Return the request for this command, with the key of the request's header."""
    kind, payload = commands.KINDS[type(command)], msgspec.json.encode(command)
    header = request.headers.get("idempotency-key")
    key = None if header is None else _key_digest(header)
    return CommandRequest(
        event_id=event_id,
        id=ids.new_id(),
        kind=kind,
        payload=payload,
        actor=actor,
        idempotency_key=key,
        fingerprint=hashlib.sha256(kind.encode() + b"\0" + payload).digest() if key else None,
        version=commands.version_of(command),
        slug=slug,
        deadline=due,
    )


def deadline_of(request: Request, settings: Settings) -> Deadline:
    """Return the deadline of a request that begins now, by the preference of its header."""
    prefer = request.headers.get("prefer")
    wait_seconds = settings.answer_wait_seconds if prefer is None else _wait_seconds(prefer, settings)
    return deadline.of(wait_seconds, settings.answer_wait_seconds)


def sentence(message: str) -> str:
    """Turn msgspec's "Expected … - at `$.name`" into "name: expected …"."""
    reason, _, place = message.partition(" - at `$")
    field = place.strip(".`")
    if "matching regex" in reason:
        reason = (
            "expected text without control characters that is not blank"
            if field != "slug"
            else ("expected lower case letters, digits and single hyphens")
        )
    reason = reason[:1].lower() + reason[1:]
    return f"{field}: {reason}." if field else f"{reason[:1].upper()}{reason[1:]}."


def invalid(detail: str) -> ProblemError:
    """Return the problem of a request that can never succeed."""
    return ProblemType.INVALID_REQUEST.error(detail)


def _key_digest(key: str) -> bytes:
    if not key or len(key) > IDEMPOTENCY_KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        raise invalid(
            f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable ASCII characters."
        )
    return hashlib.sha256(key.encode()).digest()


def _wait_seconds(prefer: str, settings: Settings) -> float:
    """Return the seconds that a client prefers to wait for a decision (RFC 7240)."""
    wait = _PREFER_WAIT.search(prefer)
    if wait is not None:
        return min(int(wait[1]), settings.answer_wait_seconds_max)
    return 0 if "respond-async" in prefer else settings.answer_wait_seconds


def _too_large(bytes_max: int) -> ProblemError:
    return ProblemType.BODY_TOO_LARGE.error(f"The body may have at most {bytes_max} bytes.")
