"""What OpenAPI says of the admin routes: an example of every answer."""

from typing import Any

from api import describing, examples, schemas, schemas_insight
from shared.domain.commands import ChangeEvent
from shared.domain.outcomes import RefusalCode

_KEY_PROBLEMS = {
    401: describing.problem(401, "Unauthorized", "UNAUTHORIZED", detail="Send a valid admin key."),
    403: describing.problem(403, "Forbidden", "FORBIDDEN", detail="This key may only read."),
}


def _admin(answers: dict[int, dict[str, Any]], **more: Any) -> dict[str, Any]:
    return describing.route(
        {422: describing.INVALID, 503: describing.NO_DATABASE, **answers, **_KEY_PROBLEMS}, **more
    )


_COUNTER_EXAMPLE = {"capacity": 100, "spotsReserved": 99, "spotsLeft": 1, "waitlistLength": 0}

_NO_REGISTRATION = describing.problem(
    404, "Not Found", "REGISTRATION_NOT_FOUND", "EVENT_NOT_FOUND", detail="There is no such registration."
)


def _refused(*codes: RefusalCode, detail: str, **more: Any) -> dict[str, Any]:
    return describing.problem(
        409,
        "Conflict",
        *(code.value for code in codes),
        detail=detail,
        headers=describing.LOCATION,
        receiptId=examples.RECEIPT_ID,
        **more,
    )


CREATE_EVENT = _admin(
    {
        201: describing.answer(
            "Created.", schemas.Event, describing.LOCATION, created=examples.EVENT_EXAMPLE
        ),
        409: describing.problem(
            409, "Conflict", "SLUG_TAKEN", detail="There is an event of this slug already."
        ),
        **describing.BODY_PROBLEMS,
    },
    body=schemas.NewEvent,
    examples={"drop": {"value": {"slug": "demo", "title": "Demonstration drop", "capacity": 100}}},
)

EVENTS = _admin(
    {
        200: describing.answer(
            "A page.", schemas.EventPage, page={"items": [examples.EVENT_EXAMPLE], "nextCursor": None}
        )
    }
)

EVENT = _admin(
    {
        200: describing.answer("The event.", schemas.Event, event=examples.EVENT_EXAMPLE),
        404: describing.NO_EVENT,
    }
)

REGISTRATIONS = _admin(
    {
        200: describing.answer(
            "A page.",
            schemas.RegistrationPage,
            page={"items": [examples.REGISTRATION_EXAMPLE], "nextCursor": "4711"},
        ),
        404: describing.NO_EVENT,
    }
)

REGISTRATION = _admin(
    {
        200: describing.answer(
            "The registration.", schemas.Registration, registration=examples.REGISTRATION_EXAMPLE
        ),
        404: describing.problem(
            404, "Not Found", "REGISTRATION_NOT_FOUND", detail="There is no such registration."
        ),
    }
)

AUDIT = _admin(
    {
        200: describing.answer(
            "A page.", schemas_insight.AuditPage, page={"items": [examples.AUDIT_EXAMPLE], "nextCursor": None}
        ),
        404: describing.NO_EVENT,
    }
)

COUNTER = _admin(
    {
        200: describing.answer(
            "In sync when the drift is zero.",
            schemas_insight.Counter,
            counter={"spotsReserved": 99, "actualConfirmed": 99, "drift": 0},
        ),
        404: describing.NO_EVENT,
    }
)

CHANGE_EVENT = _admin(
    {
        200: describing.answer(
            "Changed.", schemas.Event, describing.LOCATION, changed=examples.EVENT_EXAMPLE
        ),
        202: describing.PENDING_ANSWER,
        **describing.CHANGE_PROBLEMS,
        404: describing.NO_EVENT,
        409: _refused(
            RefusalCode.CAPACITY_BELOW_RESERVED,
            RefusalCode.WINDOW_INVALID,
            detail="99 spots are confirmed; the capacity cannot be 50.",
        ),
        **describing.BODY_PROBLEMS,
    },
    body=ChangeEvent,
    examples={
        "larger": {"value": {"capacity": 120, "reason": "a second stand"}},
        "pause": {"value": {"paused": True}},
    },
    parameters=[describing.IDEMPOTENCY_KEY, describing.PREFER],
)

CHANGE_STATUS = _admin(
    {
        200: describing.answer(
            "Changed, or as it was.",
            schemas.RegistrationChanged,
            describing.LOCATION,
            confirmed={
                "receiptId": examples.RECEIPT_ID,
                "changed": True,
                "registration": examples.REGISTRATION_EXAMPLE,
                "event": _COUNTER_EXAMPLE,
            },
        ),
        202: describing.PENDING_ANSWER,
        **describing.CHANGE_PROBLEMS,
        404: _NO_REGISTRATION,
        409: _refused(
            RefusalCode.CAPACITY_EXCEEDED,
            RefusalCode.ALREADY_REGISTERED,
            detail="The registration needs 4 spots; 1 is left.",
            spotsLeft=1,
            spotsNeeded=4,
        ),
        **describing.BODY_PROBLEMS,
    },
    body=schemas.StatusChange,
    examples={"promote": {"value": {"status": "CONFIRMED", "reason": "asked by phone"}}},
    parameters=[describing.IDEMPOTENCY_KEY, describing.PREFER],
)

DELETE_REGISTRATION = _admin(
    {
        200: describing.answer(
            "Gone.",
            schemas.RegistrationDeleted,
            describing.LOCATION,
            deleted={
                "receiptId": examples.RECEIPT_ID,
                "registrationId": examples.REGISTRATION_ID,
                "spotsFreed": 1,
                "event": _COUNTER_EXAMPLE,
            },
        ),
        202: describing.PENDING_ANSWER,
        **describing.CHANGE_PROBLEMS,
        404: _NO_REGISTRATION,
    },
    parameters=[describing.IDEMPOTENCY_KEY, describing.PREFER],
)

HEAL_COUNTER = _admin(
    {
        200: describing.answer(
            "The counter equals the rows.",
            schemas.Healed,
            describing.LOCATION,
            healed={"receiptId": examples.RECEIPT_ID, "drift": 2, "spotsReserved": 97, "overbookedSpots": 0},
        ),
        202: describing.PENDING_ANSWER,
        **describing.CHANGE_PROBLEMS,
        404: describing.NO_EVENT,
        **describing.BODY_PROBLEMS,
    },
    parameters=[describing.IDEMPOTENCY_KEY, describing.PREFER],
)

STATS = _admin(
    {
        200: describing.answer(
            "Counted now.",
            schemas_insight.Stats,
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
        404: describing.NO_EVENT,
    }
)

EXPLAIN = _admin(
    {
        200: describing.answer(
            "Why it has its status.",
            schemas_insight.Explanation,
            head={
                "registrationId": examples.REGISTRATION_ID,
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
        404: describing.NO_EVENT,
        503: describing.problem(
            503,
            "Service Unavailable",
            "EXPORT_BUSY",
            "LEDGER_UNAVAILABLE",
            detail="Other exports are running.",
            headers=describing.RETRY_AFTER,
        ),
    }
)
