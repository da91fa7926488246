"""The HTTP bodies about the service itself."""

from api.edge.schemas import Wire


class IndexLinks(Wire, frozen=True, kw_only=True, rename="camel"):
    """Where the parts of the service are; `demo` is null if there is no demonstration event."""

    docs: str = "/docs"
    openapi: str = "/openapi.json"
    health: str = "/healthz"
    readiness: str = "/readyz"
    demo: str | None


class Index(Wire, frozen=True, kw_only=True, rename="camel"):
    """What answers here, and where its parts are."""

    service: str = "AdmitOne"
    version: str
    links: IndexLinks
