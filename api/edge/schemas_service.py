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
    """The name and the version of this service, and the places of its parts."""

    service: str = "AdmitOne"
    version: str
    links: IndexLinks
