"""Reads a body field by field: takes what forms and people send, and tells all that is wrong at once."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import inspect

from api.edge.problems import ProblemError, ProblemType
from shared.domain import commands, texts

_Body = TypeVar("_Body", bound=msgspec.Struct)

_REASONS_MAX = 100
_NAME_SHOWN_MAX = 100
_INTEGER_LENGTH_MAX = 20
_INVALID = (msgspec.ValidationError, UnicodeEncodeError)  # the latter for half of a character


def read(content: bytes | bytearray, kind: type[_Body], domains_refused: Collection[str]) -> _Body:
    """Return the body of this kind: its texts clean, `2.0` an integer, empty optional texts absent.

    A null that is no value of its field is absent, too. Raises the problem 422 with a reason for each field
    that is wrong, or `msgspec.DecodeError`.
    """
    document = _document(content)
    if not isinstance(document, dict):
        raise invalid({"": "must be a JSON object"})
    fields = _fields(kind)
    names = [name for name, _ in json.loads(content, object_pairs_hook=list, parse_int=str)]
    values, reasons = {}, {}
    for name, field in fields.items():
        if names.count(name) > 1:
            reasons[name] = "is there more than once"
        try:
            value = field.tidy(document.get(name, msgspec.UNSET), domains_refused)
        except ValueError as error:
            reasons[name] = str(error)
        else:
            if value is not msgspec.UNSET:
                values[name] = value
    unknown = (
        name.encode(errors="replace").decode() or "(no name)" for name in document if name not in fields
    )
    reasons |= dict.fromkeys(unknown, "is no field of this request")
    body = None
    try:
        body = msgspec.convert(values, kind)
    except _INVALID as error:
        found = {name: field.reason(values.get(name, msgspec.UNSET)) for name, field in fields.items()}
        reasons = {name: reason for name, reason in found.items() if reason} | reasons
        if not reasons:  # each field is right by itself: the body's own check begins with the name of one
            name, _, reason = str(error).partition(" ")
            reasons[name] = reason
    if body is None or reasons:
        raise invalid(reasons)
    return body


def _document(content: bytes | bytearray) -> Any:  # noqa: ANN401 - JSON
    """Return the document of a body, with the halves of characters and the numbers that msgspec refuses."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        with suppress(ValueError):
            return json.loads(content.decode(), parse_int=_integer, parse_constant=_no_number)
        raise


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _INTEGER_LENGTH_MAX else float(digits)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def invalid(reasons: Mapping[str, str]) -> ProblemError:
    """Return the problem of a request with wrong fields, parameters or headers: a reason for each of 100."""
    reasons = {name[:_NAME_SHOWN_MAX]: reason for name, reason in islice(reasons.items(), _REASONS_MAX)}
    detail = " ".join(f"{name or 'The body'}{':' * bool(name)} {reason}." for name, reason in reasons.items())
    errors = [{"field": name, "reason": reason} for name, reason in reasons.items()]
    return ProblemType.INVALID_REQUEST.error(detail, errors=errors)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    """A field of a body: its type, whether it must be there, whether null is a value, its rule in words."""

    annotation: Any
    type_: inspect.Type
    is_email: bool
    required: bool
    nullable: bool
    rule: str

    def tidy(self, sent: Any, domains_refused: Collection[str]) -> Any:  # noqa: ANN401 - JSON
        """Return a value in the form in which it counts, UNSET for none; raises `ValueError` for a text."""
        if sent is None and not self.required and not self.nullable:
            return msgspec.UNSET
        if isinstance(self.type_, inspect.IntType) and isinstance(sent, float) and sent.is_integer():
            return int(sent)
        if not isinstance(self.type_, inspect.StrType | inspect.DateTimeType) or not isinstance(sent, str):
            return sent
        text = texts.clean(sent)
        if not text and not self.required:
            return msgspec.UNSET
        return texts.email_address(text, domains_refused) if self.is_email else text

    def reason(self, value: Any) -> str | None:  # noqa: ANN401 - JSON
        """Return the reason why this value, UNSET for none, cannot be taken; None if it can."""
        if value is msgspec.UNSET:
            return "is missing" if self.required else None
        try:
            converted = msgspec.convert(value, self.annotation)
        except _INVALID:  # its words name Python's types
            return self.rule
        if isinstance(converted, datetime):
            try:
                commands.in_utc(converted)
            except ValueError as error:
                return str(error)
        return None


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, _Field]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType), "a body is an object"
    annotations = get_type_hints(kind, include_extras=True)
    return {field.encode_name: _field(field, annotations[field.name]) for field in described.fields}


def _field(field: inspect.Field, annotation: Any) -> _Field:  # noqa: ANN401 - of any type
    parts = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
    type_ = next(part for part in parts if not isinstance(part, inspect.NoneType))
    is_email, rule = False, None
    if isinstance(type_, inspect.Metadata):
        is_email, rule = type_.extra_json_schema == commands.EMAIL, (type_.extra or {}).get("rule")
        type_ = type_.type
    rule, nullable = rule or _rule(type_), len(parts) > 1
    if nullable and not is_email:
        rule = f"{rule}, or null"
    return _Field(
        annotation=annotation,
        type_=type_,
        is_email=is_email,
        required=field.required,
        nullable=nullable,
        rule=rule,
    )


def _rule(type_: inspect.Type) -> str:
    """Return the rule of a type in words: what a value of it must be."""
    match type_:
        case inspect.IntType(ge=least, le=most):
            return f"must be a whole number from {least} to {most}"
        case inspect.StrType(min_length=least, max_length=most):
            return f"must be text of {least} to {most} characters"
        case inspect.BoolType():
            return "must be true or false"
        case inspect.DateTimeType():
            return "must be a time with its zone, such as 2027-05-01T18:00:00Z"
        case inspect.EnumType(cls=cls):
            return f"must be one of {', '.join(str(member.value) for member in cls)}"
        case inspect.LiteralType(values=values):
            return f"must be one of {', '.join(map(str, values))}"
        case _:
            return "must be of another type"
