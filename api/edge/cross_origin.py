"""Methods of a path, and requests that browsers send from pages of other origins (Fetch standard, CORS)."""

from collections.abc import Iterable

from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

_Headers = tuple[tuple[bytes, bytes], ...]

_PUBLIC = "/api/p/"
_ANY = "*"
_ALLOW_ORIGIN = b"access-control-allow-origin"
_VARY: _Headers = ((b"vary", b"Origin"),)
_EXPOSED: _Headers = (
    (
        b"access-control-expose-headers",
        b", ".join(
            (
                b"Location, Retry-After, ETag, Idempotent-Replayed, Preference-Applied",
                b"RateLimit, RateLimit-Policy, X-Request-Id",
            )
        ),
    ),
)
_ASKED_BEFORE = {
    # The star is for headers that tracing adds; some browsers know the names only, and it never stands for
    # Authorization.
    "access-control-allow-headers": (
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, Prefer, X-Request-Id, *"
    ),
    "access-control-max-age": "7200",
}


class Origins:
    """The origins with pages that may use the public routes; the admin routes are never for other origins."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed: dict[bytes, _Headers] = {
            origin.encode(): ((_ALLOW_ORIGIN, origin.encode()), *_VARY, *_EXPOSED) for origin in allowed
        }
        self._others: _Headers = _VARY
        if _ANY.encode() in self._allowed:
            self._others = ((_ALLOW_ORIGIN, _ANY.encode()), *_EXPOSED)

    def headers(self, path: str, origin: bytes | None) -> _Headers:
        """Return the headers by which a browser lets a page of this origin see the answer."""
        if not path.startswith(_PUBLIC):
            return ()
        return self._allowed.get(origin or b"", self._others)


def methods_of(routes: Iterable[Route], scope: Scope) -> str:
    """Return all methods of the path of a request, empty for an unknown path; `*` stands for all paths."""
    of_all = scope["path"] == "*"
    matching = [route for route in routes if of_all or route.matches(scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"})) if methods else ""


def options(methods: str) -> Response:
    """Return the answer to `OPTIONS`, also to a browser that asks before it sends the request."""
    return Response(
        status_code=204, headers={"allow": methods, "access-control-allow-methods": methods, **_ASKED_BEFORE}
    )
