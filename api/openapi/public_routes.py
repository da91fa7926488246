"""The OpenAPI descriptions of the public routes; all schemas come from the bodies' own types."""

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse

from api.edge import schemas, schemas_admin, schemas_insight, schemas_keys
from api.edge.problems import ProblemType
from api.openapi import builders, examples
from shared.domain import commands, texts
from shared.domain.commands import AddRegistration, ChangeEvent

_LEDGERS_PATTERN = commands.PRINTABLE + commands.AT_THE_END
"""The pattern of texts in the ledger, which has more than clients may send: earlier versions took more."""

_NULL: dict[str, Any] = {"type": "null"}


def _has(name: str) -> dict[str, Any]:
    """Return the schema of an object that has a value other than null under this name."""
    return {"required": [name], "properties": {name: {"not": _NULL}}}


_STATUS_OR_CORRECTION: dict[str, Any] = {
    "if": _has("status"),
    "then": {
        "properties": {"name": _NULL, "email": False, "spotsCount": _NULL},
        "if": _has("place"),
        "then": {"properties": {"status": {"const": "WAITLIST"}}},
    },
    "else": {
        "properties": {"place": _NULL},
        "anyOf": [_has("name"), {"required": ["email"]}, _has("spotsCount")],
    },
}
"""The conditions that `RegistrationChange` checks itself."""

APPLICATION: dict[str, Any] = {
    "title": "AdmitOne",
    "version": "0.1.0",
    "summary": "Registration for ticket drops: never oversold, never lost, answered once.",
    "description": (
        "Every change is a command. It is written into a ledger before it is answered, decided in the "
        "ledger's order by the one worker that owns the event, and has exactly one outcome."
    ),
    "generate_unique_id_function": lambda route: route.name,
    "redirect_slashes": False,  # a redirection would lead to the host that the client names
    "docs_url": None,  # `api/routes/pages.py` has a page that loads nothing from elsewhere
    "redoc_url": None,
}

AVAILABILITY = builders.route(
    {
        200: builders.answer(
            "The spots that are left now.", schemas.Availability, open=examples.AVAILABILITY
        ),
    },
    ProblemType.EVENT_NOT_FOUND,
    *builders.READ_PROBLEMS,
)

REGISTER = builders.route(
    {
        201: builders.answer(
            "Decided.",
            schemas.Receipt,
            builders.LOCATION,
            confirmed=examples.CONFIRMED,
            waitlisted=examples.WAITLIST,
        )
        | builders.links(builders.OF_RECEIPT, "read_receipt", "cancel", "shrink"),
        202: builders.answer(
            "Accepted; not decided yet.",
            schemas.Receipt,
            {**builders.LOCATION, **builders.RETRY_AFTER},
            pending=examples.PENDING,
        )
        | builders.links(builders.OF_RECEIPT, "read_receipt"),
    },
    ProblemType.REGISTRATION_CLOSED,
    ProblemType.REGISTRATION_NOT_OPEN,
    ProblemType.EVENT_PAUSED,
    ProblemType.TOO_MANY_SPOTS,
    ProblemType.EVENT_FULL,
    ProblemType.ALREADY_REGISTERED,
    ProblemType.TOO_MANY_SPOTS_OF_ADDRESS,
    ProblemType.CHALLENGE_REQUIRED,
    ProblemType.CHALLENGE_FAILED,
    *builders.BODY_PROBLEMS,
    *builders.CHANGE_PROBLEMS,
    body=schemas.Registering,
    examples={
        "alone": {"value": {"name": "User A", "spotsCount": 1}},
        "a party": {"value": {"name": "User B", "spotsCount": 4, "email": "user.b@example.org"}},
    },
    parameters=[builders.IDEMPOTENCY_KEY, builders.PREFER],
)

_CHALLENGE_SCHEMA = {"type": "object", "required": ["parameters", "signature"]}

CHALLENGE = builders.route(
    {
        200: {
            "description": "A challenge, in the form of ALTCHA.",
            "content": {"application/json": {"schema": _CHALLENGE_SCHEMA, "example": examples.CHALLENGE}},
        },
    },
    ProblemType.EVENT_NOT_FOUND,
    ProblemType.NO_CHALLENGE,
    *builders.READ_PROBLEMS,
)

_ETAG = {"ETag": {"description": "Changes with the receipt.", "schema": {"type": "string"}}}

RECEIPT = builders.route(
    {
        200: builders.answer(
            "The state of the receipt, as of now.",
            schemas.Receipt,
            {**builders.RETRY_AFTER, **_ETAG},
            confirmed=examples.CONFIRMED,
            waitlisted=examples.WAITLIST,
            pending=examples.PENDING,
            refused=examples.REFUSED,
        ),
        304: {"description": "The client has this receipt as it is.", "headers": _ETAG},
    },
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.ANSWER_UNAVAILABLE,
    ProblemType.EVENT_NOT_FOUND,
    *builders.READ_PROBLEMS,
    parameters=[
        builders.WAIT,
        builders.header("If-None-Match", "The `ETag` of an earlier answer."),
    ],
)

CANCEL = builders.route(
    {
        200: builders.answer(
            "Cancelled, now or before.",
            schemas.Cancelled,
            cancelled={
                **examples.CONFIRMED,
                "status": "CANCELLED",
                "registration": {
                    "id": examples.REGISTRATION_ID,
                    "status": "CANCELLED",
                    "spotsCount": 1,
                    "waitlistPosition": None,
                },
                "changed": True,
                "fromStatus": "CONFIRMED",
                "toStatus": "CANCELLED",
            },
        ),
        202: builders.PENDING_ANSWER,
    },
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.CANCELLATION_CLOSED,
    *builders.LATE_PROBLEMS,
    *builders.CHANGE_PROBLEMS,
    parameters=[builders.IDEMPOTENCY_KEY, builders.PREFER],
)

SHRINK = builders.route(
    {
        200: builders.answer(
            "The party has this size, now or before.", schemas.Receipt, smaller=examples.CONFIRMED
        ),
        202: builders.PENDING_ANSWER,
    },
    ProblemType.RECEIPT_NOT_FOUND,
    ProblemType.REGISTRATION_NOT_FOUND,
    ProblemType.CANCELLATION_CLOSED,
    ProblemType.TOO_MANY_SPOTS,
    *builders.BODY_PROBLEMS,
    *builders.LATE_PROBLEMS,
    *builders.CHANGE_PROBLEMS,
    parameters=[builders.IDEMPOTENCY_KEY, builders.PREFER],
    body=schemas.PartySize,
    examples={"one fewer": {"value": {"spotsCount": 1}}},
)

RECEIPT_BY_HEADER = builders.by_header(RECEIPT)
CANCEL_BY_HEADER = builders.by_header(CANCEL)
SHRINK_BY_HEADER = builders.by_header(SHRINK)

_READY = dict.fromkeys(("database", "schema", "sequence", "worker", "durability", "broker", "results"), "ok")
_REFUSED = "OOM command not allowed when used memory > 'maxmemory'."

_PROBE_PROBLEMS = (ProblemType.INTERNAL_ERROR,)
INDEX = builders.route(
    {
        200: {
            "description": "The links of this service; a page for clients that prefer `text/html`.",
            "content": {
                "application/json": {
                    "schema": builders.reference(schemas.Index),
                    "examples": {"index": {"value": examples.INDEX}},
                },
                "text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"},
            },
        }
    }
)

SECURITY_CONTACT = builders.route(
    {
        200: {
            "description": "The contact of `ADMITONE_SECURITY_CONTACT`, good for 90 days (RFC 9116).",
            "content": {
                "text/plain": {
                    "example": "Contact: mailto:security@example.org\nExpires: 2027-02-22T00:00:00Z\n"
                }
            },
        }
    },
    ProblemType.NOT_FOUND,
    response_class=PlainTextResponse,
)

HEALTH = builders.route(
    {
        200: {
            "description": "The process answers.",
            "content": {"application/json": {"example": {"status": "ok"}}},
        }
    },
    every=_PROBE_PROBLEMS,
)

READINESS = builders.route(
    {
        200: builders.answer(
            "Ready. `degraded` names the parts that stop nothing; the checks say why.",
            schemas.Readiness,
            ready={"ready": True, "degraded": [], "checks": _READY},
            degraded={
                "ready": True,
                "degraded": ["broker", "results"],
                "checks": {**_READY, "broker": _REFUSED, "results": _REFUSED},
            },
        ),
        503: builders.answer(
            "Not ready; the checks say why.",
            schemas.Readiness,
            no_worker={"ready": False, "degraded": [], "checks": {**_READY, "worker": "no worker ticks"}},
        ),
    },
    every=_PROBE_PROBLEMS,
)


METRICS = builders.route(
    {
        200: {
            "description": "All metrics.",
            "content": {"text/plain": {"example": "admitone_commands_accepted_total 4711.0\n"}},
        }
    },
    *builders.KEY_PROBLEMS,
    response_class=PlainTextResponse,
    without_key=True,  # for clients of the same machine
)


def install(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Make the application's OpenAPI document include the schemas of all bodies, and whole examples."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_components())
            components.setdefault("securitySchemes", {}).update(builders.RECEIPT_SCHEME)
            _restore_examples(document, routers)
            _describe_parameters(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    # FastAPI's own route would encode the document anew for each request; `api/routes/health.py` has another.
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) != app.openapi_url]


def _restore_examples(document: dict[str, Any], routers: Iterable[APIRouter]) -> None:
    """Restore the routes' own answers in the document: FastAPI leaves every null out of an example."""
    routes = (route for router in routers for route in router.routes if isinstance(route, APIRoute))
    for route in (route for route in routes if route.include_in_schema):
        for method in route.methods or ():
            described = document["paths"][route.path_format][method.lower()]["responses"]
            for status, answer in route.responses.items():
                described[str(status)].update(answer)


def _describe_parameters(document: dict[str, Any]) -> None:
    """Say of query parameters that a blank one is as good as none (`Front`), and show a slug to try."""
    for path, methods in document["paths"].items():
        is_public = path.startswith("/api/p/")
        for parameter in (
            parameter for route in methods.values() for parameter in route.get("parameters", ())
        ):
            if parameter["in"] == "query" and not is_public:
                parameter["allowEmptyValue"] = True
            elif parameter["name"] == "slug" and is_public:
                parameter["example"] = "demo"


def _components() -> dict[str, Any]:
    bodies = [
        schemas.Registering,
        AddRegistration,
        ChangeEvent,
        *(
            body
            for module in (schemas, schemas_admin, schemas_insight, schemas_keys)
            for name, body in vars(module).items()
            if not name.startswith("_")
            and isinstance(body, type)
            and issubclass(body, schemas.Wire)
            and body not in {schemas.Wire, schemas.EventFigures}
        ),
    ]
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    for property_ in (part for body in components.values() for part in body.get("properties", {}).values()):
        for schema in (property_, *property_.get("anyOf", ())):
            if schema.get("pattern") == _LEDGERS_PATTERN:
                schema["pattern"] = texts.PATTERN
    for body in components.values():
        if body.get("additionalProperties") is False:  # the body of a request
            optional = body["properties"].keys() - body["required"]
            body["properties"].update((name, _or_null(body["properties"][name])) for name in optional)
    components["RegistrationChange"] |= _STATUS_OR_CORRECTION
    return components


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an optional field that also takes null, which counts as left out."""
    if _NULL in schema.get("anyOf", ()):
        return schema
    around: dict[str, Any] = {name: schema[name] for name in ("description", "default") if name in schema}
    return {**around, "anyOf": [{name: schema[name] for name in schema if name not in around}, _NULL]}
