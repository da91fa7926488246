"""The OpenAPI document is valid, and names for every route the problems that its code leads to."""

import ast
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.edge import body_fields, security
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas_admin import RegistrationChange
from api.main import create_app
from api.routes import changes, events, health, insight, keys, pages, protection, registrations
from shared.domain.outcomes import RefusalCode
from shared.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
ROUTES = [
    route
    for module in (registrations, events, protection, changes, insight, keys, pages, health)
    for route in module.router.routes
    if isinstance(route, APIRoute) and route.include_in_schema
]
LIBRARY_ERRORS = {"execute": ("DBAPIError", "DataError"), "stream": ("ClientDisconnect",)}
"""The errors of the libraries' methods that the API turns into problems."""
IMPOSSIBLE = {
    *(
        (name, code)  # only for other statuses
        for name in ("cancel", "cancel_by_header")
        for code in ("CAPACITY_EXCEEDED", "ALREADY_REGISTERED")
    ),
    *(
        (route.name, "EVENT_NOT_FOUND")
        for route in ROUTES
        if "{" not in route.path and route.methods != {"POST"}
    ),
    ("create_key", "EVENT_NOT_FOUND"),
    ("revoke_key", "EVENT_NOT_FOUND"),
    *(
        (name, code)  # only for other corrections
        for name in ("shrink", "shrink_by_header")
        for code in ("CAPACITY_EXCEEDED", "ALREADY_REGISTERED")
    ),
    ("change_registration", "CANCELLATION_CLOSED"),  # only for holders
    ("change_event", "REGISTRATION_NOT_FOUND"),  # of an event that was removed, and none ever is
    # A check's failure is its state, and the front page comes without a database.
    *((name, code) for name in ("readyz", "index") for code in ("INVALID_REQUEST", "LEDGER_UNAVAILABLE")),
    # Only the version of its settings, as a command, is looked at.
    *(("create_event", code) for code in ("CAPACITY_BELOW_RESERVED", "WINDOW_INVALID", "SLUG_FIXED")),
    ("challenge", "ANSWER_UNAVAILABLE"),  # it finds an event, and no receipt
    *((probe, "TOO_MANY_REQUESTS") for probe in ("healthz", "readyz")),  # probes are not limited
}
"""Problems that the code leads to, by route, but not with what this route asks for."""
UNSEEN = {
    "ANSWER_UNAVAILABLE",
    "INVALID_REQUEST",
    "LEDGER_UNAVAILABLE",
    "NUMBERING_BEHIND",
    "REGISTRATION_CLOSED",
}
"""Problems of parts that are handed in or of other folders, which this test does not see."""
CACHES = {"refusing_events"}
"""Parts that every command leads to, and that decide other commands than the one that is asked for."""
GUARDS = {"events_reader", "events_writer", "registrations_writer", "operator"}
Json: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str, str]


class Code:
    """The functions and constants of a folder, and the names that each of them leads to."""

    def __init__(self, folder: str) -> None:
        self.defined: dict[Place, ast.AST] = {}
        self.methods: dict[str, list[Place]] = {}
        self.collections: set[str] = set()
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.AsyncFunctionDef):
                    node.decorator_list.clear()  # a route's has its description
                if isinstance(node, ast.ClassDef):
                    for part in node.body:
                        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                            place = (path.stem, f"{node.name}.{part.name}")
                            self.defined[place] = part
                            self.methods.setdefault(part.name, []).append(place)
                        elif isinstance(part, ast.AnnAssign) and _is_collection(part.annotation):
                            self.collections.add(ast.unparse(part.target))
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    self.defined[path.stem, node.name] = node
                elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                    self.defined[path.stem, ast.unparse(target)] = node.value

    def names(self, module: str, *begin: ast.AST) -> set[str]:
        """Return all names in these nodes and in everything that they may lead to."""
        found: set[str] = set()
        seen: set[int] = set()
        todo: list[tuple[Place, ast.AST]] = [((module, ""), node) for node in begin]
        while todo:
            here, root = todo.pop()
            if id(root) in seen:
                continue
            seen.add(id(root))
            for node in ast.walk(root):
                if isinstance(node, ast.Name | ast.Attribute):
                    found.add(ast.unparse(node))
                    todo += [(place, self.defined[place]) for place in self._places(here, node)]
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    method = node.func.attr
                    found.add(method)
                    owner = ast.unparse(node.func.value)
                    if owner != "self" and owner.rpartition(".")[2] not in self.collections | CACHES:
                        todo += [(place, self.defined[place]) for place in self.methods.get(method, [])]
        return found

    def _places(self, here: Place, node: ast.Name | ast.Attribute) -> Iterable[Place]:
        """Return what a name may stand for: its module's function or constant, or a method of `self`."""
        module, inside = here
        if isinstance(node, ast.Name):
            return {(module, node.id)} & self.defined.keys()
        before = ast.unparse(node.value)
        if before == "self":
            before, name = module, f"{inside.partition('.')[0]}.{node.attr}"
        else:
            name = node.attr
        return {(before, name)} & self.defined.keys()


def _is_collection(annotation: ast.AST) -> bool:
    """Return True for a set, a dictionary or a list: their methods are not the folder's own."""
    return ast.unparse(annotation).startswith(("set[", "dict[", "list["))


API, DOMAIN = Code("api"), Code("shared/domain")


def members(kind: type[Enum], names: set[str]) -> set[str]:
    """Return the members of an enumeration that these names name."""
    return {member for member in kind.__members__ if f"{kind.__name__}.{member}" in names}


@cache
def error_problems() -> dict[str, set[str]]:
    """Return the problems that each kind of exception is translated to."""
    table = API.defined["error_handlers", "_TRANSLATIONS"]
    assert isinstance(table, ast.Dict)
    return {
        ast.unparse(kind): members(ProblemType, API.names("error_handlers", translate))
        for kind, translate in zip(table.keys, table.values, strict=True)
        if kind is not None
    }


@cache
def refusals_of(command: str) -> set[str]:
    """Return the codes by which the roster may refuse this command."""
    return {
        code
        for case in ast.walk(DOMAIN.defined["decisions", "decide"])
        if isinstance(case, ast.match_case) and ast.unparse(case.pattern).startswith(f"{command}()")
        for code in members(RefusalCode, DOMAIN.names("decisions", *case.body))
    }


def _names_of(function: Any) -> set[str]:  # noqa: ANN401 - FastAPI types endpoints so
    module = function.__module__.rpartition(".")[2]
    return API.names(module, API.defined[module, function.__name__])


def problems_of(route: APIRoute) -> set[str]:
    """Return the problems that the code of a route leads to."""
    names = _names_of(route.endpoint)
    if GUARDS & names:
        names |= _names_of(security.principal)
    for guard in route.dependencies:
        names |= _names_of(guard.dependency)
    names |= {error for name in names for error in LIBRARY_ERRORS.get(name, ())}
    translated = {code for error, codes in error_problems().items() if error in names for code in codes}
    refusals = {code for command in names for code in refusals_of(command)}
    codes = members(ProblemType, names) | translated | refusals | {"INTERNAL_ERROR", "TOO_MANY_REQUESTS"}
    return {code for code in codes if (route.name, code) not in IMPOSSIBLE}


@pytest.fixture(scope="module")
def document() -> Json:
    url = "redis://nowhere"
    app = create_app(Settings(database_url="postgresql://nowhere/none", broker_url=url, result_url=url))
    found: Json = msgspec.json.decode(msgspec.json.encode(app.app.openapi()))
    return found


def test_every_admin_route_names_its_scope(document: Json) -> None:
    scopes = {
        (method, path): [scope for need in route.get("security", []) for scope in need["key"]]
        for path, methods in document["paths"].items()
        for method, route in methods.items()
        if path.startswith("/api/") and not path.startswith("/api/p/")
    }
    assert len(scopes) > 10
    assert [route for route, needed in scopes.items() if len(needed) != 1] == []


def references(value: object) -> Iterator[str]:
    """Yield every `$ref` below a value."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for below in value.values():
            yield from references(below)
    elif isinstance(value, list):
        for below in value:
            yield from references(below)


def test_the_document_is_valid(document: Json) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_reference_resolves(document: Json) -> None:
    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) == named


def examples(value: object) -> Iterator[tuple[Json, object]]:
    """Yield every example below a value, with its schema."""
    if isinstance(value, dict):
        yield from ((value["schema"], one["value"]) for one in value.get("examples", {}).values())
        for below in value.values():
            yield from examples(below)


def test_every_example_is_of_its_schema(document: Json) -> None:
    shown = list(examples(document["paths"]))
    assert len(shown) > len(ROUTES)
    for schema, example in shown:
        OAS31Validator({**schema, "components": document["components"]}).validate(example)


def test_optional_fields_of_requests_take_null(document: Json) -> None:
    components = document["components"]["schemas"]
    checked = [
        OAS31Validator({**schema, "components": document["components"]}).is_valid(None)
        for body in components.values()
        if body.get("additionalProperties") is False
        for name, schema in body["properties"].items()
        if name not in body["required"]
    ]
    assert len(checked) > 30
    assert all(checked)


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({"status": "CANCELLED", "place": None, "name": None, "spotsCount": None}, True),
        ({"status": None, "place": None, "name": "Ann"}, True),
        ({"status": None, "email": None}, True),
        ({"status": "WAITLIST", "place": "tail"}, True),
        ({"status": "CANCELLED", "place": "tail"}, False),
        ({"status": "CANCELLED", "email": None}, False),
        ({"status": "CANCELLED", "name": "Ann"}, False),
        ({"name": "Ann", "place": "tail"}, False),
        ({"status": None, "name": None, "spotsCount": None}, False),
    ],
)
def test_a_registration_change_says_its_conditions(document: Json, change: Json, *, is_valid: bool) -> None:
    schema = {"$ref": "#/components/schemas/RegistrationChange", "components": document["components"]}
    assert OAS31Validator(schema).is_valid(change) is is_valid
    try:
        is_taken = body_fields.read(msgspec.json.encode(change), RegistrationChange, ()) is not None
    except ProblemError:
        is_taken = False
    assert is_taken is is_valid


def test_no_header_of_a_request_has_an_example(document: Json) -> None:
    """The page `/docs` would send it: each reader's registration would have the same idempotency key."""
    headers = [
        parameter
        for methods in document["paths"].values()
        for route in methods.values()
        for parameter in route.get("parameters", [])
        if parameter["in"] == "header"
    ]
    assert "Idempotency-Key" in {header["name"] for header in headers}
    assert [
        header for header in headers if {"example", "examples"} & (header | header["schema"]).keys()
    ] == []


def documented(document: Json, route: APIRoute) -> set[str]:
    """Return the problems of a route by the document."""
    answers = document["paths"][route.path][min(route.methods or set()).lower()]["responses"].values()
    bodies = (answer.get("content", {}).get("application/problem+json", {}) for answer in answers)
    return {code for body in bodies for code in body.get("examples", {})}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_problem_of_a_route_is_documented(document: Json, route: APIRoute) -> None:
    codes = problems_of(route)
    assert codes <= documented(document, route) <= codes | UNSEEN


def test_every_problem_is_documented_somewhere(document: Json) -> None:
    ours = {code for route in ROUTES for code in documented(document, route)}
    of_no_route = {"METHOD_NOT_ALLOWED", "MALFORMED_REQUEST", "HEAD_TOO_LARGE"}
    of_no_route |= {"REQUEST_TIMEOUT", "TOO_MANY_CONNECTIONS"}
    assert ours == set(ProblemType.__members__) - of_no_route


def needs_thread(dependant: Dependant) -> bool:
    """Return True if FastAPI calls a function of this route in a thread, as it does unless it is async."""
    call = dependant.call
    is_async = iscoroutinefunction(call) or iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    return not is_async or any(map(needs_thread, dependant.dependencies))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_no_route_needs_a_thread(route: APIRoute) -> None:
    assert not needs_thread(route.dependant)
