"""What OpenAPI says of the routes: schemas taken from the bodies' own types, an example of every answer."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import schemas
from shared.commands import ChangeEvent, Register
from shared.outcomes import RefusalCode

APPLICATION: dict[str, Any] = {
    "title": "AdmitOne",
    "version": "0.1.0",
    "summary": "Registration for ticket drops: never oversold, never lost, answered once.",
    "description": (
        "Every change is a command. It is written into a ledger before it is answered, decided in the "
        "ledger's order by the one worker that owns the event, and has exactly one outcome."
    ),
    "docs_url": "/docs",
    "redoc_url": None,
}

_RECEIPT_ID = "01a20b6f-8fe2-70ac-83f8-91dc7f09e1d6"
_REGISTRATION_ID = "01a20b6f-8fe2-78f0-98d0-386d0c571e83"
_EVENT_ID = "01a20b6b-1a30-7c3e-8d11-6fca02cb99f6"
_NOW = "2026-11-24T09:00:00Z"

_CONFIRMED = {
    "receiptId": _RECEIPT_ID,
    "status": "CONFIRMED",
    "registration": {
        "id": _REGISTRATION_ID,
        "status": "CONFIRMED",
        "spotsCount": 1,
        "waitlistPosition": None,
    },
    "refusal": None,
    "ahead": None,
    "incidentId": None,
}
_WAITLIST = {
    **_CONFIRMED,
    "status": "WAITLIST",
    "registration": {"id": _REGISTRATION_ID, "status": "WAITLIST", "spotsCount": 1, "waitlistPosition": 12},
}
_PENDING = {**_CONFIRMED, "status": "PENDING", "registration": None, "ahead": 340}
_REFUSED = {
    **_CONFIRMED,
    "status": "REFUSED",
    "registration": None,
    "refusal": {"code": "EVENT_FULL", "detail": "The event is full and its waitlist takes nobody."},
}
_AVAILABILITY = {
    "slug": "demo",
    "title": "Demonstration drop",
    "capacity": 100,
    "spotsReserved": 99,
    "spotsLeft": 1,
    "waitlistLength": 0,
    "state": "OPEN",
    "opensAt": None,
    "closesAt": None,
    "maxSpotsPerRegistration": 10,
}
_EVENT_EXAMPLE = {
    **_AVAILABILITY,
    "id": _EVENT_ID,
    "overbookedSpots": 0,
    "waitlistEnabled": True,
    "waitlistLimit": None,
    "promotionPolicy": "strict_fifo",
    "autoPromote": True,
    "paused": False,
    "createdAt": _NOW,
    "updatedAt": _NOW,
}
_REGISTRATION_EXAMPLE = {
    "id": _REGISTRATION_ID,
    "seq": 4711,
    "name": "User A",
    "email": "user.a@example.org",
    "spotsCount": 1,
    "status": "CONFIRMED",
    "waitlistPosition": None,
    "createdAt": _NOW,
    "updatedAt": _NOW,
}
_AUDIT_EXAMPLE = {
    "number": 1,
    "commandDigest": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "kind": "register",
    "actor": "public",
    "reason": None,
    "registrationId": _REGISTRATION_ID,
    "fromStatus": None,
    "toStatus": "CONFIRMED",
    "beforeAfter": None,
    "spotsDelta": 1,
    "spotsReserved": 1,
    "at": "2026-11-24T09:00:00.000000Z",
    "hash": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "previousHash": "0" * 64,
}

_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_LOCATION = {"Location": {"description": "The receipt.", "schema": {"type": "string"}}}


def _answer(
    description: str, body: type[msgspec.Struct], headers: dict[str, Any] | None = None, **examples: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "headers": headers or {},
        "content": {
            "application/json": {
                "schema": _reference(body),
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }


def _problem(
    status: int, title: str, *codes: str, detail: str, headers: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Describe a problem answer, with an example for each code that it can carry."""
    examples = {
        code: {
            "value": {
                "type": f"urn:admitone:problem:{code.lower().replace('_', '-')}",
                "title": title,
                "status": status,
                "detail": detail,
                "code": code,
                "requestId": _RECEIPT_ID,
                **more,
            }
        }
        for code in codes
    }
    content = {"application/problem+json": {"schema": _reference(schemas.Problem), "examples": examples}}
    return {
        "description": f"{detail} Codes: {', '.join(codes)}.",
        "headers": headers or {},
        "content": content,
    }


def _reference(body: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def _route(
    answers: dict[int, dict[str, Any]], body: type[msgspec.Struct] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the arguments by which a route is documented; the lowest status is the usual one."""
    extra: dict[str, Any] = {}
    if body is not None:
        content = {"application/json": {"schema": _reference(body), "examples": more.pop("examples")}}
        extra["requestBody"] = {"required": True, "content": content}
    if "parameters" in more:
        extra["parameters"] = more.pop("parameters")
    first = min(answers)
    return {
        "status_code": first,
        "responses": answers,
        "openapi_extra": extra,
        "response_model": None,
        **more,
    }


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "description": description, "schema": schema, "example": example}


_IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    "Asking again under the same key gives the same answer, with `Idempotent-Replayed: true`.",
    "7f9c24e8-3b12-4fef-91e0-56e5b0d1a1c4",
)
_PREFER = _header(
    "Prefer", "`respond-async` does not wait for the decision, `wait=N` waits N seconds.", "wait=2"
)

_REGISTER_REFUSALS = (
    RefusalCode.REGISTRATION_CLOSED,
    RefusalCode.EVENT_PAUSED,
    RefusalCode.TOO_MANY_SPOTS,
    RefusalCode.ALREADY_REGISTERED,
    RefusalCode.EVENT_FULL,
)
_NO_EVENT = _problem(404, "Not Found", "EVENT_NOT_FOUND", detail="There is no such event.")
_NO_DATABASE = _problem(
    503,
    "Service Unavailable",
    "LEDGER_UNAVAILABLE",
    detail="The ledger cannot be reached; nothing was accepted.",
    headers=_RETRY_AFTER,
)
_BODY_PROBLEMS = {
    413: _problem(413, "Content Too Large", "BODY_TOO_LARGE", detail="The body is too large."),
    415: _problem(
        415, "Unsupported Media Type", "UNSUPPORTED_MEDIA_TYPE", detail="Send the body as application/json."
    ),
}
_KEY_PROBLEMS = {
    401: _problem(401, "Unauthorized", "UNAUTHORIZED", detail="Send a valid admin key."),
    403: _problem(403, "Forbidden", "FORBIDDEN", detail="This key may only read."),
}
_INVALID = _problem(
    422, "Unprocessable Content", "INVALID_REQUEST", detail="spotsCount: expected `int` >= 1."
)


def _admin(answers: dict[int, dict[str, Any]], **more: Any) -> dict[str, Any]:
    return _route({422: _INVALID, 503: _NO_DATABASE, **answers, **_KEY_PROBLEMS}, **more)


AVAILABILITY = _route(
    {
        200: _answer("What is left now.", schemas.Availability, open=_AVAILABILITY),
        404: _NO_EVENT,
        422: _INVALID,
        503: _NO_DATABASE,
    }
)

# What any command can meet besides its own refusals.
_COMMAND_PROBLEMS = {
    422: _problem(
        422,
        "Unprocessable Content",
        "INVALID_REQUEST",
        "IDEMPOTENCY_KEY_REUSED",
        detail="The request is invalid, or its key was used for something else; nothing was accepted.",
    ),
    500: _problem(
        500,
        "Internal Server Error",
        "COMMAND_FAILED",
        detail="The command could not be decided and changed nothing.",
        receiptId=_RECEIPT_ID,
        incidentId=_REGISTRATION_ID,
    ),
    503: _problem(
        503,
        "Service Unavailable",
        "INTAKE_FULL",
        "LEDGER_UNAVAILABLE",
        detail="Nothing was accepted; try again.",
        headers=_RETRY_AFTER,
    ),
    504: _problem(
        504,
        "Gateway Timeout",
        "ACCEPTANCE_UNKNOWN",
        detail="The ledger was lost while it accepted; ask again with the same Idempotency-Key.",
    ),
}
# A change tells more than its outcome, which takes a reading after it.
_CHANGE_PROBLEMS = {
    **_COMMAND_PROBLEMS,
    503: _problem(
        503,
        "Service Unavailable",
        "INTAKE_FULL",
        "LEDGER_UNAVAILABLE",
        "ANSWER_UNAVAILABLE",
        detail="Nothing was accepted; with a receipt, it was decided and cannot be shown now.",
        headers=_RETRY_AFTER,
    ),
}

REGISTER = _route(
    {
        201: _answer("Decided.", schemas.Receipt, _LOCATION, confirmed=_CONFIRMED, waitlisted=_WAITLIST),
        202: _answer(
            "Accepted; not decided yet.", schemas.Receipt, {**_LOCATION, **_RETRY_AFTER}, pending=_PENDING
        ),
        404: _NO_EVENT,
        409: _problem(
            409,
            "Conflict",
            *(code.value for code in _REGISTER_REFUSALS),
            detail="The command was refused and changed nothing.",
            headers=_LOCATION,
            receiptId=_RECEIPT_ID,
        ),
        **_BODY_PROBLEMS,
        **_COMMAND_PROBLEMS,
    },
    body=Register,
    examples={
        "alone": {"value": {"name": "User A", "spotsCount": 1}},
        "a party": {"value": {"name": "User B", "spotsCount": 4, "email": "user.b@example.org"}},
    },
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)

RECEIPT = _route(
    {
        200: _answer(
            "What has become of it, as of now.",
            schemas.Receipt,
            confirmed=_CONFIRMED,
            waitlisted=_WAITLIST,
            pending=_PENDING,
            refused=_REFUSED,
        ),
        404: _problem(
            404,
            "Not Found",
            "RECEIPT_NOT_FOUND",
            "EVENT_NOT_FOUND",
            detail="No such receipt was ever issued here.",
        ),
        422: _INVALID,
        503: _NO_DATABASE,
    }
)

CREATE_EVENT = _admin(
    {
        201: _answer("Created.", schemas.Event, _LOCATION, created=_EVENT_EXAMPLE),
        409: _problem(409, "Conflict", "SLUG_TAKEN", detail="There is an event of this slug already."),
        **_BODY_PROBLEMS,
    },
    body=schemas.NewEvent,
    examples={"drop": {"value": {"slug": "demo", "title": "Demonstration drop", "capacity": 100}}},
)
EVENTS = _admin(
    {200: _answer("A page.", schemas.EventPage, page={"items": [_EVENT_EXAMPLE], "nextCursor": None})}
)
EVENT = _admin({200: _answer("The event.", schemas.Event, event=_EVENT_EXAMPLE), 404: _NO_EVENT})
REGISTRATIONS = _admin(
    {
        200: _answer(
            "A page.", schemas.RegistrationPage, page={"items": [_REGISTRATION_EXAMPLE], "nextCursor": "4711"}
        ),
        404: _NO_EVENT,
    }
)
REGISTRATION = _admin(
    {
        200: _answer("The registration.", schemas.Registration, registration=_REGISTRATION_EXAMPLE),
        404: _problem(404, "Not Found", "REGISTRATION_NOT_FOUND", detail="There is no such registration."),
    }
)
AUDIT = _admin(
    {
        200: _answer("A page.", schemas.AuditPage, page={"items": [_AUDIT_EXAMPLE], "nextCursor": None}),
        404: _NO_EVENT,
    }
)
COUNTER = _admin(
    {
        200: _answer(
            "In sync when the drift is zero.",
            schemas.Counter,
            counter={"spotsReserved": 99, "actualConfirmed": 99, "drift": 0},
        ),
        404: _NO_EVENT,
    }
)

_COUNTER_EXAMPLE = {"capacity": 100, "spotsReserved": 99, "spotsLeft": 1, "waitlistLength": 0}
_PENDING_ANSWER = _answer(
    "Accepted; not decided yet.", schemas.Receipt, {**_LOCATION, **_RETRY_AFTER}, pending=_PENDING
)
_NO_REGISTRATION = _problem(
    404, "Not Found", "REGISTRATION_NOT_FOUND", "EVENT_NOT_FOUND", detail="There is no such registration."
)


def _refused(*codes: RefusalCode, detail: str, **more: Any) -> dict[str, Any]:
    return _problem(
        409,
        "Conflict",
        *(code.value for code in codes),
        detail=detail,
        headers=_LOCATION,
        receiptId=_RECEIPT_ID,
        **more,
    )


CANCEL = _route(
    {
        200: _answer(
            "Cancelled, now or before.",
            schemas.Receipt,
            cancelled={
                **_CONFIRMED,
                "status": "CANCELLED",
                "registration": {
                    "id": _REGISTRATION_ID,
                    "status": "CANCELLED",
                    "spotsCount": 1,
                    "waitlistPosition": None,
                },
            },
        ),
        202: _PENDING_ANSWER,
        404: _problem(
            404,
            "Not Found",
            "RECEIPT_NOT_FOUND",
            "EVENT_NOT_FOUND",
            "REGISTRATION_NOT_FOUND",
            detail="There is nothing to cancel.",
        ),
        **_CHANGE_PROBLEMS,
    },
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)
CHANGE_EVENT = _admin(
    {
        200: _answer("Changed.", schemas.Event, _LOCATION, changed=_EVENT_EXAMPLE),
        202: _PENDING_ANSWER,
        **_CHANGE_PROBLEMS,
        404: _NO_EVENT,
        409: _refused(
            RefusalCode.CAPACITY_BELOW_RESERVED,
            RefusalCode.WINDOW_INVALID,
            detail="99 spots are confirmed; the capacity cannot be 50.",
        ),
        **_BODY_PROBLEMS,
    },
    body=ChangeEvent,
    examples={
        "larger": {"value": {"capacity": 120, "reason": "a second stand"}},
        "pause": {"value": {"paused": True}},
    },
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)
CHANGE_STATUS = _admin(
    {
        200: _answer(
            "Changed, or as it was.",
            schemas.RegistrationChanged,
            _LOCATION,
            confirmed={
                "receiptId": _RECEIPT_ID,
                "changed": True,
                "registration": _REGISTRATION_EXAMPLE,
                "event": _COUNTER_EXAMPLE,
            },
        ),
        202: _PENDING_ANSWER,
        **_CHANGE_PROBLEMS,
        404: _NO_REGISTRATION,
        409: _refused(
            RefusalCode.CAPACITY_EXCEEDED,
            RefusalCode.ALREADY_REGISTERED,
            detail="The registration needs 4 spots; 1 is left.",
            spotsLeft=1,
            spotsNeeded=4,
        ),
        **_BODY_PROBLEMS,
    },
    body=schemas.StatusChange,
    examples={"promote": {"value": {"status": "CONFIRMED", "reason": "asked by phone"}}},
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)
DELETE_REGISTRATION = _admin(
    {
        200: _answer(
            "Gone.",
            schemas.RegistrationDeleted,
            _LOCATION,
            deleted={
                "receiptId": _RECEIPT_ID,
                "registrationId": _REGISTRATION_ID,
                "spotsFreed": 1,
                "event": _COUNTER_EXAMPLE,
            },
        ),
        202: _PENDING_ANSWER,
        **_CHANGE_PROBLEMS,
        404: _NO_REGISTRATION,
    },
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)
HEAL_COUNTER = _admin(
    {
        200: _answer(
            "The counter equals the rows.",
            schemas.Healed,
            _LOCATION,
            healed={"receiptId": _RECEIPT_ID, "drift": 2, "spotsReserved": 97, "overbookedSpots": 0},
        ),
        202: _PENDING_ANSWER,
        **_CHANGE_PROBLEMS,
        404: _NO_EVENT,
        **_BODY_PROBLEMS,
    },
    parameters=[_IDEMPOTENCY_KEY, _PREFER],
)
STATS = _admin(
    {
        200: _answer(
            "Counted now.",
            schemas.Stats,
            stats={
                **_COUNTER_EXAMPLE,
                "byStatus": {
                    "CONFIRMED": {"registrations": 80, "spots": 99},
                    "WAITLIST": {"registrations": 0, "spots": 0},
                    "CANCELLED": {"registrations": 3, "spots": 4},
                },
                "pending": 0,
                "decidedPerMinute": 83,
            },
        ),
        404: _NO_EVENT,
    }
)
EXPLAIN = _admin(
    {
        200: _answer(
            "Why it has its status.",
            schemas.Explanation,
            head={
                "registrationId": _REGISTRATION_ID,
                "status": "WAITLIST",
                "seq": 4711,
                "waitlistPosition": 1,
                "spotsCount": 4,
                "spotsLeft": 3,
                "registrationsAhead": 0,
                "spotsAhead": 0,
                "sentences": [
                    "When it was decided, 97 of 100 spots were confirmed and it needs 4: WAITLIST.",
                    "It is number 1 of 1 on the waitlist.",
                    "The head of the waitlist needs 4, 3 are free, policy strict_fifo.",
                ],
                "steps": [],
            },
        ),
        404: _NO_REGISTRATION,
    }
)
EXPORT = _admin(
    {
        200: {
            "description": "All registrations, a line each.",
            "content": {
                "text/csv": {"example": "id,seq,name,email,spotsCount,status,createdAt,updatedAt\n"},
                "application/x-ndjson": {"example": '{"id": "…", "seq": 4711, "name": "User A"}\n'},
            },
        },
        404: _NO_EVENT,
        503: _problem(
            503,
            "Service Unavailable",
            "EXPORT_BUSY",
            "LEDGER_UNAVAILABLE",
            detail="Other exports are running.",
            headers=_RETRY_AFTER,
        ),
    }
)

_READY = dict.fromkeys(("database", "schema", "worker", "broker", "results"), "ok")
HEALTH = _route(
    {
        200: {
            "description": "The process answers.",
            "content": {"application/json": {"example": {"status": "ok"}}},
        }
    }
)
READINESS = _route(
    {
        200: _answer("Ready.", schemas.Readiness, ready={"ready": True, "checks": _READY}),
        503: _answer(
            "Not ready; the checks say why.",
            schemas.Readiness,
            no_worker={"ready": False, "checks": {**_READY, "worker": "no worker ticks"}},
        ),
    }
)


def install(app: FastAPI) -> None:
    """Make the application's OpenAPI document include the schemas of all bodies."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(_components())
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _components() -> dict[str, Any]:
    bodies = [
        Register,
        ChangeEvent,
        *(
            body
            for body in vars(schemas).values()
            if isinstance(body, type) and issubclass(body, schemas.Wire) and body is not schemas.Wire
        ),
    ]
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    return components
