"""The OpenAPI document; all schemas come from the bodies' own types."""

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.edge import schemas, schemas_admin, schemas_insight, schemas_keys
from api.openapi import builders
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
