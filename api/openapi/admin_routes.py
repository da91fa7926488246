"""The OpenAPI descriptions of the admin routes, with an example of every answer."""

from typing import Any

from api.edge import schemas, schemas_admin, schemas_insight
from api.edge.problems import ProblemType
from api.openapi import builders, examples
from shared.domain.commands import AddRegistration, ChangeEvent


def _read(usual: dict[int, dict[str, Any]], *problems: ProblemType) -> dict[str, Any]:
    return builders.route(usual, *builders.KEY_PROBLEMS, *problems, *builders.READ_PROBLEMS)


def _list(usual: dict[int, dict[str, Any]], *problems: ProblemType) -> dict[str, Any]:
    return _read(usual, ProblemType.ADMIN_READS_BUSY, *problems)


def _write(usual: dict[int, dict[str, Any]], *problems: ProblemType, **more: Any) -> dict[str, Any]:
    return builders.route(usual, *builders.KEY_PROBLEMS, *problems, **more)


def _change(usual: dict[int, dict[str, Any]], *problems: ProblemType, **more: Any) -> dict[str, Any]:
    return _write(
        {**usual, 202: builders.PENDING_ANSWER},
        *problems,
        *builders.LATE_PROBLEMS,
        *builders.CHANGE_PROBLEMS,
        parameters=[builders.IDEMPOTENCY_KEY, builders.PREFER],
        **more,
    )


_COUNTER_EXAMPLE = {"capacity": 100, "spotsReserved": 99, "spotsLeft": 1, "waitlistLength": 0}

CREATE_EVENT = _write(
    {
        201: builders.answer(
            "Created.", schemas_admin.Event, builders.LOCATION, created=examples.EVENT_EXAMPLE
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.SLUG_TAKEN,
    ProblemType.IDEMPOTENCY_KEY_REUSED,
    ProblemType.ACCEPTANCE_UNKNOWN,
    ProblemType.WORKERS_OUTDATED,
    *builders.BODY_PROBLEMS,
    *builders.READ_PROBLEMS,
    body=schemas_admin.NewEvent,
    examples={"drop": {"value": {"slug": "demo", "title": "Demonstration drop", "capacity": 100}}},
    parameters=[builders.IDEMPOTENCY_KEY],
)

EVENTS = _list(
    {
        200: builders.answer(
            "A page.", schemas_admin.EventPage, page={"items": [examples.EVENT_EXAMPLE], "nextCursor": None}
        )
    },
)

EVENT = _read(
    {
        200: builders.answer("The event.", schemas_admin.Event, event=examples.EVENT_EXAMPLE),
    },
    ProblemType.EVENT_NOT_FOUND,
)

_PROTECTION_EXAMPLE = {"spotsPerAddress": 20, "challenge": True}

PROTECTION = _read(
    {200: builders.answer("The protection.", schemas_admin.Protection, protection=_PROTECTION_EXAMPLE)},
    ProblemType.EVENT_NOT_FOUND,
)

CHANGE_PROTECTION = _write(
    {200: builders.answer("The protection now.", schemas_admin.Protection, protection=_PROTECTION_EXAMPLE)},
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.ACCEPTANCE_UNKNOWN,
    *builders.BODY_PROBLEMS,
    *builders.READ_PROBLEMS,
    body=schemas_admin.Protection,
    examples={"both": {"value": _PROTECTION_EXAMPLE}, "none": {"value": {}}},
)

REGISTRATIONS = _list(
    {
        200: builders.answer(
            "A page.",
            schemas_admin.RegistrationPage,
            page={"items": [examples.REGISTRATION_EXAMPLE], "nextCursor": "4711"},
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
)

REGISTRATION = _list(
    {
        200: builders.answer(
            "The registration.", schemas_admin.Registration, registration=examples.REGISTRATION_EXAMPLE
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
)

AUDIT = _list(
    {
        200: builders.answer(
            "A page.", schemas_insight.AuditPage, page={"items": [examples.AUDIT_EXAMPLE], "nextCursor": None}
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
)

COMMANDS = _list(
    {
        200: builders.answer(
            "A page.",
            schemas_insight.FailedCommandPage,
            page={"items": [examples.FAILED_EXAMPLE], "nextCursor": None},
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
)

COUNTER = _list(
    {
        200: builders.answer(
            "In sync when the drift is zero.",
            schemas_insight.Counter,
            counter={"spotsReserved": 99, "actualConfirmed": 99, "drift": 0},
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
)

CHANGE_EVENT = _change(
    {
        200: builders.answer(
            "Changed.", schemas_admin.Event, builders.LOCATION, changed=examples.EVENT_EXAMPLE
        ),
    },
    ProblemType.CAPACITY_BELOW_RESERVED,
    ProblemType.WINDOW_INVALID,
    ProblemType.SLUG_FIXED,
    ProblemType.SLUG_TAKEN,
    *builders.BODY_PROBLEMS,
    body=ChangeEvent,
    examples={
        "too many were confirmed": {"value": {"capacity": 100, "allowOverbooked": True, "reason": "not 120"}},
        "larger": {"value": {"capacity": 120, "reason": "a second stand"}},
        "pause": {"value": {"paused": True}},
    },
)

DELETE_EVENT = _change(
    {
        200: builders.answer(
            "Gone.",
            schemas_admin.EventDeleted,
            builders.LOCATION,
            deleted={"receiptId": examples.RECEIPT_ID, "eventId": examples.EVENT_ID},
        ),
    },
)

ADD_REGISTRATION = _change(
    {
        201: builders.answer(
            "Registered; the receipt is the holder's.",
            schemas.Receipt,
            builders.LOCATION,
            confirmed=examples.CONFIRMED,
            waitlisted=examples.WAITLIST,
        ),
    },
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.ALREADY_REGISTERED,
    ProblemType.EVENT_FULL,
    ProblemType.CAPACITY_EXCEEDED,
    *builders.BODY_PROBLEMS,
    body=AddRegistration,
    examples={
        "by phone": {"value": {"name": "User C", "spotsCount": 2, "reason": "by phone"}},
        "certainly": {"value": {"name": "User D", "status": "CONFIRMED"}},
    },
)

GIVE_RECEIPT = _change(
    {
        201: builders.answer(
            "The holder's receipt from now on.",
            schemas.Receipt,
            builders.LOCATION,
            given=examples.CONFIRMED,
        ),
    },
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    *builders.BODY_PROBLEMS,
    body=schemas_admin.GivenReason,
    body_required=False,
    examples={"lost": {"value": {"reason": "lost the first one"}}},
)

CHANGE_REGISTRATION = _change(
    {
        200: builders.answer(
            "Changed, or as it was.",
            schemas_admin.RegistrationChanged,
            builders.LOCATION,
            confirmed={
                "receiptId": examples.RECEIPT_ID,
                "changed": True,
                "fromStatus": "WAITLIST",
                "toStatus": "CONFIRMED",
                "registration": examples.REGISTRATION_EXAMPLE,
                "event": _COUNTER_EXAMPLE,
            },
        ),
    },
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.CAPACITY_EXCEEDED,
    ProblemType.ALREADY_REGISTERED,
    *builders.BODY_PROBLEMS,
    body=schemas_admin.RegistrationChange,
    examples={
        "promote": {"value": {"status": "CONFIRMED", "reason": "asked by phone"}},
        "back in line": {"value": {"status": "WAITLIST", "place": "original"}},
        "correct": {"value": {"name": "User B", "email": "user.b@example.org", "spotsCount": 2}},
    },
)

DELETE_REGISTRATION = _change(
    {
        200: builders.answer(
            "Gone.",
            schemas_admin.RegistrationDeleted,
            builders.LOCATION,
            deleted={
                "receiptId": examples.RECEIPT_ID,
                "registrationId": examples.REGISTRATION_ID,
                "spotsFreed": 1,
                "event": _COUNTER_EXAMPLE,
            },
        ),
    },
    ProblemType.REGISTRATION_NOT_FOUND,
)

HEAL_COUNTER = _change(
    {
        200: builders.answer(
            "The counter equals the rows.",
            schemas_admin.Healed,
            builders.LOCATION,
            healed={"receiptId": examples.RECEIPT_ID, "drift": 2, "spotsReserved": 97, "overbookedSpots": 0},
        ),
    },
    *builders.BODY_PROBLEMS,
    body=schemas_admin.GivenReason,
    body_required=False,
    examples={"drift": {"value": {"reason": "a hand-written UPDATE"}}},
)

STATS = _list(
    {
        200: builders.answer(
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
    },
    ProblemType.EVENT_NOT_FOUND,
)

EXPLAIN = _list(
    {
        200: builders.answer(
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
                "stepsFrom": 1,
                "steps": [],
            },
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
)

EXPORT = _read(
    {
        200: {
            "description": "All registrations, a line each.",
            "content": {
                "text/csv": {"example": "\ufeffid,seq,name,email,spotsCount,status,createdAt,updatedAt\r\n"},
                "application/x-ndjson": {"example": '{"id": "…", "seq": 4711, "name": "User A"}\n'},
            },
        },
    },
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.EXPORT_BUSY,
    ProblemType.HTTP_VERSION_NOT_SUPPORTED,
)
