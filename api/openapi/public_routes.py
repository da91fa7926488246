"""The OpenAPI descriptions of the public routes and of the service's own."""

import msgspec
from starlette.responses import PlainTextResponse

from api.edge import schemas
from api.edge.problems import ProblemType
from api.openapi import builders, document, examples
from api.openapi.builders import COMMAND_PROBLEMS, KEY_PROBLEMS, READ_PROBLEMS

AVAILABILITY = builders.route(
    builders.answer("The spots that are left now.", schemas.Availability, open=examples.AVAILABILITY),
    ProblemType.EVENT_NOT_FOUND,
    *READ_PROBLEMS,
)

REGISTER = builders.route(
    builders.answer(
        "Decided.",
        schemas.Receipt,
        builders.LOCATION,
        status=201,
        leads_to=("read_receipt", "cancel", "shrink"),
        confirmed=examples.CONFIRMED,
        waitlisted=examples.WAITLIST,
    )
    | builders.pending_answer(leads_to=("read_receipt",)),
    ProblemType.REGISTRATION_CLOSED,
    ProblemType.REGISTRATION_NOT_OPEN,
    ProblemType.EVENT_PAUSED,
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.EVENT_FULL,
    ProblemType.ALREADY_REGISTERED,
    ProblemType.TOO_MANY_SPOTS_OF_ADDRESS,
    ProblemType.CHALLENGE_REQUIRED,
    ProblemType.CHALLENGE_FAILED,
    *COMMAND_PROBLEMS,
    body=schemas.Registering,
    examples={
        "alone": {"name": "User A", "spotsCount": 1},
        "a party": {"name": "User B", "spotsCount": 4, "email": "user.b@example.org"},
    },
    parameters=[builders.IDEMPOTENCY_KEY, builders.PREFER],
)

_CHALLENGE_SCHEMA = {"type": "object", "required": ["parameters", "signature"]}

CHALLENGE = builders.route(
    builders.by_media_type(
        "A challenge, in the form of ALTCHA.",
        {"application/json": {"schema": _CHALLENGE_SCHEMA, "example": examples.CHALLENGE}},
    ),
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.NO_CHALLENGE,
    *READ_PROBLEMS,
)

_ETAG = {"ETag": {"description": "Changes with the receipt.", "schema": {"type": "string"}}}

RECEIPT = builders.route(
    builders.answer(
        "The state of the receipt, as of now.",
        schemas.Receipt,
        {**builders.RETRY_AFTER, **_ETAG},
        confirmed=examples.CONFIRMED,
        waitlisted=examples.WAITLIST,
        pending=examples.PENDING,
        refused=examples.REFUSED,
    )
    | {304: {"description": "The client has this receipt as it is.", "headers": _ETAG}},
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.ANSWER_UNAVAILABLE,
    ProblemType.EVENT_NOT_FOUND,
    *READ_PROBLEMS,
    parameters=[
        builders.WAIT,
        builders.header("If-None-Match", "The `ETag` of an earlier answer."),
    ],
)

CANCEL = builders.change(
    builders.answer(
        "Cancelled, now or before.",
        schemas.Cancelled,
        cancelled={
            **examples.CONFIRMED,
            "status": "CANCELLED",
            "registration": {**examples.CONFIRMED["registration"], "status": "CANCELLED"},
            "changed": True,
            "fromStatus": "CONFIRMED",
            "toStatus": "CANCELLED",
        },
    ),
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.CANCELLATION_CLOSED,
)

SHRINK = builders.change(
    builders.answer("The party has this size, now or before.", schemas.Receipt, smaller=examples.CONFIRMED),
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.CANCELLATION_CLOSED,
    ProblemType.TOO_MANY_SPOTS,
    body=schemas.PartySize,
    examples={"one fewer": {"spotsCount": 1}},
)

RECEIPT_BY_HEADER = builders.receipt_in_header(RECEIPT)
CANCEL_BY_HEADER = builders.receipt_in_header(CANCEL)
SHRINK_BY_HEADER = builders.receipt_in_header(SHRINK)

_READY = dict.fromkeys(("database", "schema", "sequence", "worker", "durability", "broker", "results"), "ok")
_REFUSED = "OOM command not allowed when used memory > 'maxmemory'."

_INDEX = schemas.Index(version=document.APPLICATION["version"], links=schemas.IndexLinks(demo="/api/p/demo"))
_PROBE_PROBLEMS = (ProblemType.INTERNAL_ERROR,)
INDEX = builders.route(
    builders.by_media_type(
        "The links of this service; a page for clients that prefer `text/html`.",
        {
            "application/json": {
                "schema": builders.reference(schemas.Index),
                "examples": {"index": {"value": msgspec.to_builtins(_INDEX)}},
            },
            "text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"},
        },
    )
)

SECURITY_CONTACT = builders.route(
    builders.by_media_type(
        "The contact of `ADMITONE_SECURITY_CONTACT`, good for 90 days (RFC 9116).",
        {"text/plain": {"example": "Contact: mailto:security@example.org\nExpires: 2027-02-22T00:00:00Z\n"}},
    ),
    ProblemType.NOT_FOUND,
    response_class=PlainTextResponse,
)

HEALTH = builders.route(
    builders.by_media_type("The process answers.", {"application/json": {"example": {"status": "ok"}}}),
    every=_PROBE_PROBLEMS,
)

READINESS = builders.route(
    builders.answer(
        "Ready. `degraded` names the parts that stop nothing; the checks say why.",
        schemas.Readiness,
        ready={"ready": True, "degraded": [], "checks": _READY},
        degraded={
            "ready": True,
            "degraded": ["broker", "results"],
            "checks": {**_READY, "broker": _REFUSED, "results": _REFUSED},
        },
    )
    | builders.answer(
        "Not ready; the checks say why.",
        schemas.Readiness,
        status=503,
        no_worker={"ready": False, "degraded": [], "checks": {**_READY, "worker": "no worker ticks"}},
    ),
    every=_PROBE_PROBLEMS,
)


METRICS = builders.route(
    builders.by_media_type(
        "All metrics.", {"text/plain": {"example": "admitone_commands_accepted_total 4711.0\n"}}
    ),
    *KEY_PROBLEMS,
    response_class=PlainTextResponse,
    without_key=True,  # for clients of the same machine
)
