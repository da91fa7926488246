"""The pages of the service itself: its front page, the API's documentation, the contact for security."""

import base64
import hashlib
import html
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from string import Template

import msgspec
from fastapi import APIRouter, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from api.edge import responses
from api.edge.problems import ProblemType
from api.edge.schemas import Availability, Index, IndexLinks
from api.openapi import document, public_routes
from api.services import Provided, Services

router = APIRouter(tags=["Operating"])

_VERSION: str = document.APPLICATION["version"]
_DEMO = "demo"
_FOLDER = Path(__file__).parents[1] / "pages"
_HOME, _EVENT, _DOCS = ((_FOLDER / f"{name}.html").read_text("utf-8") for name in ("home", "event", "docs"))
_CONTACT = '<dt><a href="/.well-known/security.txt">Security</a></dt><dd>where to report a vulnerability</dd>'
_SWAGGER_UI = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_FILES_ARE_KEPT = "public, max-age=3600"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_MEDIA_RANGE = re.compile(r"([^\s;,]+)(?:[^,]*?;\s*q=([01](?:\.[0-9]{0,3})?))?[^,]*", re.IGNORECASE)
_CONTACT_DAYS = 90


@router.get("/", **public_routes.INDEX)
async def index(services: Provided, request: Request) -> Response:
    """Tell what answers here and where its parts are: a page for people, JSON for programs."""
    await services.page_turns.wait()
    event = await _demonstration(services)
    headers = {"vary": "Accept"}
    if not _prefers_page(",".join(request.headers.getlist("accept"))):
        links = IndexLinks(demo=None if event is None else f"/api/p/{event.slug}")
        return responses.body(Index(version=_VERSION, links=links), headers=headers)
    contact = _CONTACT if services.settings.security_contact else ""
    shown = "" if event is None else _filled(_EVENT, event)
    page = Template(_HOME).substitute(version=_VERSION, event=shown, contact=contact)
    return HTMLResponse(page, headers=headers | _HOME_HEADERS)


@router.get("/docs", include_in_schema=False)
async def docs(services: Provided) -> Response:
    """Show the OpenAPI document as a page that sends requests, too."""
    await services.page_turns.wait()
    return HTMLResponse(_DOCS, headers=_DOCS_HEADERS)


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str, services: Provided) -> Response:
    """Return a file of the page `/docs`; every browser takes it compressed."""
    await services.page_turns.wait()
    if name not in _SWAGGER_UI:
        raise ProblemType.NOT_FOUND.error()
    headers = {"content-encoding": "gzip", "cache-control": _FILES_ARE_KEPT}
    return Response(_compressed(name), headers=headers, media_type=_SWAGGER_UI[name])


@router.get("/.well-known/security.txt", **public_routes.SECURITY_CONTACT)
async def security_contact(services: Provided) -> Response:
    """Tell where to report a vulnerability (RFC 9116), if the operator has named a contact."""
    await services.page_turns.wait()
    contact = services.settings.security_contact
    if contact is None:
        raise ProblemType.NOT_FOUND.error()
    # A whole day, so that all answers of a day are one.
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    expires = today + timedelta(days=_CONTACT_DAYS)
    return PlainTextResponse(f"Contact: {contact}\nExpires: {expires:%Y-%m-%dT%H:%M:%SZ}\n")


async def _demonstration(services: Services) -> Availability | None:
    """Return the demonstration event, None without one; the page also comes without a database."""
    try:
        answer = await services.availabilities.tell(_DEMO, services.settings.answer_wait_seconds)
    except (SQLAlchemyError, OSError):
        return None
    return None if answer is None else msgspec.json.decode(answer.body, type=Availability)


def _filled(template: str, event: Availability) -> str:
    figures = {name: html.escape(str(value)) for name, value in msgspec.structs.asdict(event).items()}
    return Template(template).substitute(figures)


def _prefers_page(accept: str) -> bool:
    """Return True if this `Accept` ranks HTML above JSON (RFC 9110, section 12.5.1)."""
    ranks = {media.lower(): float(q or 1) for media, q in _MEDIA_RANGE.findall(accept)}
    page, data = (
        ranks.get(f"{kind}/{subtype}", ranks.get(f"{kind}/*", ranks.get("*/*", 0)))
        for kind, subtype in (("text", "html"), ("application", "json"))
    )
    return page > data


def _headers(page: str, **sources: str) -> dict[str, str]:
    """Return the headers of a page: it may load and run what is named, and its own inline parts."""
    allowed = {"default-src": "'none'", "img-src": "data:"}
    allowed |= {f"{name}-src": of for name, of in sources.items()}
    for kind, content in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[f"{kind}-src"] = f"{allowed.get(f'{kind}-src', '')} 'sha256-{digest}'".strip()
    allowed |= dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'")
    policy = "; ".join(f"{directive} {of}" for directive, of in allowed.items())
    return {"content-security-policy": policy, "cross-origin-opener-policy": "same-origin"}


@cache
def _compressed(name: str) -> bytes:
    return (_FOLDER / "swagger-ui" / f"{name}.gz").read_bytes()


_HOME_HEADERS = _headers(_HOME)
_DOCS_HEADERS = _headers(_DOCS, script="'self'", style="'self'", connect="'self'")
