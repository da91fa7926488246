"""The OpenAPI descriptions of the admin routes, with an example of every answer."""

from typing import Any

from api.edge import schemas, schemas_admin, schemas_insight, schemas_keys
from api.edge.problems import ProblemType
from api.openapi import builders, examples
from api.openapi.builders import KEY_PROBLEMS, READ_PROBLEMS, Answers
from shared.domain.commands import AddRegistration, ChangeEvent


def _read(answers: Answers, *problems: ProblemType) -> dict[str, Any]:
    return builders.route(answers, *KEY_PROBLEMS, *problems, *READ_PROBLEMS)


def _list(answers: Answers, *problems: ProblemType) -> dict[str, Any]:
    return _read(answers, *problems, ProblemType.ADMIN_READS_BUSY)


def _write(answers: Answers, *problems: ProblemType, **more: Any) -> dict[str, Any]:
    known = (*KEY_PROBLEMS, *problems, ProblemType.ACCEPTANCE_UNKNOWN, *READ_PROBLEMS)
    return builders.route(answers, *known, **more)


def _changed(description: str, body: type[Any], status: int = 200, **shown: Any) -> Answers:
    """Describe the answer to a command, with the place of its receipt."""
    return builders.answer(description, body, builders.LOCATION, status=status, **shown)


def _change(answers: Answers, *problems: ProblemType, **more: Any) -> dict[str, Any]:
    return builders.change(answers, *KEY_PROBLEMS, *problems, **more)


_COUNTER = {"capacity": 100, "spotsReserved": 99, "spotsLeft": 1, "waitlistLength": 0}
_PROTECTION = {"spotsPerAddress": 20, "challenge": True}
_KEY: dict[str, Any] = {
    "prefix": "ao_5f0c2e9b7a41",
    "name": "box office",
    "organiser": "City Theatre",
    "scopes": ["events:read", "registrations:write"],
    "createdBy": "admin",
    "createdAt": examples.NOW,
    "expiresAt": "2027-11-24T09:00:00Z",
    "revokedAt": None,
}
_SECRET = "ao_5f0c2e9b7a41_Zk1vT0m3lq8Yw2f7nRj5xUeB4cHs6PdLaG9iKtQyWzE"  # noqa: S105 - an example

CREATE_EVENT = _write(
    _changed("Created.", schemas_admin.Event, 201, created=examples.EVENT_EXAMPLE),
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.SLUG_TAKEN,
    ProblemType.IDEMPOTENCY_KEY_REUSED,
    ProblemType.WORKERS_OUTDATED,
    body=schemas_admin.NewEvent,
    examples={"drop": {"slug": "demo", "title": "Demonstration drop", "capacity": 100}},
    parameters=[builders.IDEMPOTENCY_KEY],
)

EVENTS = _list(builders.page(schemas_admin.EventPage, examples.EVENT_EXAMPLE))

EVENT = _read(
    builders.answer("The event.", schemas_admin.Event, event=examples.EVENT_EXAMPLE),
    ProblemType.EVENT_NOT_FOUND,
)

PROTECTION = _read(
    builders.answer("The protection.", schemas_admin.Protection, protection=_PROTECTION),
    ProblemType.EVENT_NOT_FOUND,
)

CHANGE_PROTECTION = _write(
    builders.answer("The protection now.", schemas_admin.Protection, protection=_PROTECTION),
    ProblemType.EVENT_NOT_FOUND,
    body=schemas_admin.Protection,
    examples={"both": _PROTECTION, "none": {}},
)

REGISTRATIONS = _list(
    builders.page(schemas_admin.RegistrationPage, examples.REGISTRATION_EXAMPLE, "4711"),
    ProblemType.EVENT_NOT_FOUND,
)

REGISTRATION = _list(
    builders.answer(
        "The registration.", schemas_admin.Registration, registration=examples.REGISTRATION_EXAMPLE
    ),
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
)

AUDIT = _list(builders.page(schemas_insight.AuditPage, examples.AUDIT_EXAMPLE), ProblemType.EVENT_NOT_FOUND)

COMMANDS = _list(
    builders.page(schemas_insight.FailedCommandPage, examples.FAILED_EXAMPLE), ProblemType.EVENT_NOT_FOUND
)

COUNTER = _list(
    builders.answer(
        "In sync when the drift is zero.",
        schemas_insight.Counter,
        counter={"spotsReserved": 99, "actualConfirmed": 99, "drift": 0},
    ),
    ProblemType.EVENT_NOT_FOUND,
)

CHANGE_EVENT = _change(
    _changed("Changed.", schemas_admin.Event, changed=examples.EVENT_EXAMPLE),
    ProblemType.CAPACITY_BELOW_RESERVED,
    ProblemType.WINDOW_INVALID,
    ProblemType.SLUG_FIXED,
    ProblemType.SLUG_TAKEN,
    body=ChangeEvent,
    examples={
        "too many were confirmed": {"capacity": 100, "allowOverbooked": True, "reason": "not 120"},
        "larger": {"capacity": 120, "reason": "a second stand"},
        "pause": {"paused": True},
    },
)

DELETE_EVENT = _change(
    _changed(
        "Gone.",
        schemas_admin.EventDeleted,
        deleted={"receiptId": examples.RECEIPT_ID, "eventId": examples.EVENT_ID},
    ),
)

ADD_REGISTRATION = _change(
    _changed(
        "Registered; the receipt is the holder's.",
        schemas.Receipt,
        201,
        confirmed=examples.CONFIRMED,
        waitlisted=examples.WAITLIST,
    ),
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.ALREADY_REGISTERED,
    ProblemType.EVENT_FULL,
    ProblemType.CAPACITY_EXCEEDED,
    body=AddRegistration,
    examples={
        "by phone": {"name": "User C", "spotsCount": 2, "reason": "by phone"},
        "certainly": {"name": "User D", "status": "CONFIRMED"},
    },
)

GIVE_RECEIPT = _change(
    _changed("The holder's receipt from now on.", schemas.Receipt, 201, given=examples.CONFIRMED),
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    body=schemas_admin.GivenReason,
    body_required=False,
    examples={"lost": {"reason": "lost the first one"}},
)

CHANGE_REGISTRATION = _change(
    _changed(
        "Changed, or as it was.",
        schemas_admin.RegistrationChanged,
        confirmed={
            "receiptId": examples.RECEIPT_ID,
            "changed": True,
            "fromStatus": "WAITLIST",
            "toStatus": "CONFIRMED",
            "registration": examples.REGISTRATION_EXAMPLE,
            "event": _COUNTER,
        },
    ),
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.CAPACITY_EXCEEDED,
    ProblemType.ALREADY_REGISTERED,
    body=schemas_admin.RegistrationChange,
    examples={
        "promote": {"status": "CONFIRMED", "reason": "asked by phone"},
        "back in line": {"status": "WAITLIST", "place": "original"},
        "correct": {"name": "User B", "email": "user.b@example.org", "spotsCount": 2},
    },
)

DELETE_REGISTRATION = _change(
    _changed(
        "Gone.",
        schemas_admin.RegistrationDeleted,
        deleted={
            "receiptId": examples.RECEIPT_ID,
            "registrationId": examples.REGISTRATION_ID,
            "spotsFreed": 1,
            "event": _COUNTER,
        },
    ),
    ProblemType.REGISTRATION_NOT_FOUND,
)

HEAL_COUNTER = _change(
    _changed(
        "The counter equals the rows.",
        schemas_admin.Healed,
        healed={"receiptId": examples.RECEIPT_ID, "drift": 2, "spotsReserved": 97, "overbookedSpots": 0},
    ),
    body=schemas_admin.GivenReason,
    body_required=False,
    examples={"drift": {"reason": "a hand-written UPDATE"}},
)

STATS = _list(
    builders.answer(
        "Counted now.",
        schemas_insight.Stats,
        stats={
            **_COUNTER,
            "byStatus": {
                "CONFIRMED": {"registrations": 80, "spots": 99},
                "WAITLIST": {"registrations": 0, "spots": 0},
                "CANCELLED": {"registrations": 3, "spots": 4},
            },
            "pending": 0,
            "decidedPerMinute": 83,
        },
    ),
    ProblemType.EVENT_NOT_FOUND,
)

EXPLAIN = _list(
    builders.answer(
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
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
)

EXPORT = _read(
    builders.by_media_type(
        "All registrations, a line each.",
        {
            "text/csv": {"example": "\ufeffid,seq,name,email,spotsCount,status,createdAt,updatedAt\r\n"},
            "application/x-ndjson": {"example": '{"id": "…", "seq": 4711, "name": "User A"}\n'},
        },
    ),
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.EXPORT_BUSY,
    ProblemType.HTTP_VERSION_NOT_SUPPORTED,
)

CREATE_KEY = _write(
    builders.answer(
        "Created; this answer alone shows the key.",
        schemas_keys.CreatedApiKey,
        status=201,
        created={"key": _SECRET, "apiKey": _KEY},
    ),
    ProblemType.API_KEY_REFUSED,
    body=schemas_keys.NewApiKey,
    examples={
        "for an organiser": {name: _KEY[name] for name in ("name", "organiser", "scopes")} | {"days": 365}
    },
)

KEYS = _list(builders.page(schemas_keys.ApiKeyPage, _KEY))

REVOKE_KEY = _write(
    builders.answer(
        "Revoked, now or before.", schemas_keys.ApiKey, revoked={**_KEY, "revokedAt": examples.NOW}
    ),
    ProblemType.API_KEY_NOT_FOUND,
)
