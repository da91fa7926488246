"""Tells schemathesis the rules beside the OpenAPI document; it loads this module by its name."""

from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:  # noqa: ARG001 - the tool's own signature
    """Leave out blank texts, which forms send for nothing and the API takes so, and windows without time.

    The document says neither: its schemas are for programs, and compare no two fields.
    """
    sent = case.body if isinstance(case.body, dict) else {}
    blank = [name for name, value in sent.items() if isinstance(value, str) and not value.strip()]
    opens_at, closes_at = str(sent.get("opensAt") or ""), str(sent.get("closesAt") or "~")
    return not blank and opens_at < closes_at


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - likewise
    """Give each request a key of its own: one that was used to ask for something else is refused."""
    key = case.headers.get("Idempotency-Key") if case.headers else None
    if isinstance(key, str) and key and key.isascii() and key.isprintable():
        case.headers["Idempotency-Key"] = str(uuid4())
