"""The rehearsal of a drop: clients register over HTTP with real processes, and the checker verifies it.

It proves the service's promises on your own machine, or against your own installation: the capacity is
reached and never exceeded, no registration is lost, answered twice or overtaken. Every run makes an event of
its own, so that the event has no other registrations.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import msgspec
import uvloop

from ops import progress
from ops.rehearsal import checker, evidence, http_client, temporary_stack
from ops.rehearsal import report as reports
from ops.rehearsal.drop import ADMIN_KEY, Drop, Plan, RehearsalError
from ops.rehearsal.report import Report, show

OPEN_TIME_MAX = timedelta(hours=1)  # then the event closes, and costs the service nothing more
REFRESH_SECONDS = 0.2


class _Made(msgspec.Struct, frozen=True):
    id: str


async def rehearse(plan: Plan, update: Callable[..., None]) -> Report:
    """Rehearse a drop and check it; raises `RehearsalError` if it cannot begin.

    `update` is called with the stage, the number of registrations done, and the number of all.
    """
    async with http_client.Connection(plan.url) as desk:
        event_id, slug = await _create_event(desk, plan)
        drop = Drop(plan, slug)
        watch = asyncio.create_task(_watch(drop, update))
        try:
            await drop.register()
            await drop.ask_again()
            violations = await _check(desk, plan, event_id, drop)
        finally:
            watch.cancel()
    return reports.summarise(plan, event_id, slug, drop, violations)


async def _watch(drop: Drop, update: Callable[..., None]) -> None:
    while True:
        update(description=drop.stage, completed=drop.done, total=len(drop.visits))
        await asyncio.sleep(REFRESH_SECONDS)


async def _create_event(desk: http_client.Connection, plan: Plan) -> tuple[str, str]:
    """Make an event; return its id and slug; raises `RehearsalError` if the service cannot be reached."""
    slug = f"rehearsal-{secrets.token_hex(6)}"
    wanted: dict[str, object] = {"slug": slug, "title": "Rehearsal", "capacity": plan.capacity}
    wanted["maxSpotsPerRegistration"] = plan.party_max
    wanted["closesAt"] = (datetime.now(UTC) + OPEN_TIME_MAX).isoformat()
    if plan.party_max > 1:  # else a large party at the head could keep the last spots free
        wanted["promotionPolicy"] = "skip_unfit"
    headers = {"authorization": f"Bearer {plan.admin_key}", "content-type": "application/json"}
    try:
        answer = await desk.request("POST", "/api/events", headers, msgspec.json.encode(wanted))
    except http_client.ConnectionLost as lost:
        raise RehearsalError(f"{plan.url} cannot be reached: {lost}") from lost
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise RehearsalError(f"{plan.url} does not accept the admin key (HTTP {answer.status})")
    if answer.status != HTTPStatus.CREATED:
        reply = answer.body[:500].decode(errors="replace")
        raise RehearsalError(f"{plan.url} did not make an event: HTTP {answer.status} {reply}")
    try:
        return msgspec.json.decode(answer.body, type=_Made).id, slug
    except msgspec.DecodeError as error:
        raise RehearsalError(f"{plan.url} does not answer as this service does: {error}") from error


async def _check(desk: http_client.Connection, plan: Plan, event_id: str, drop: Drop) -> list[str]:
    try:
        snapshot = await evidence.fetch(desk, event_id, plan.admin_key)
    except evidence.FetchFailed as failed:
        return [f"unchecked: {failed}"]
    violations = checker.check([visit.seen for visit in drop.sent], snapshot)
    return [f"{violation.rule}: {violation.sentence}" for violation in violations]


def command(*, url: str | None, key: str | None, as_json: bool, keep: bool, **sizes: int) -> int:
    """Rehearse a drop of these `sizes` of a `Plan` at `url`, or on a temporary stack; return the exit status.

    0: every registration was answered and every promise was kept; 1: otherwise; 2: the rehearsal could not
    run, and standard error says why. `keep` keeps the temporary stack's data and prints its folder.
    """
    try:
        plan = Plan(
            url=url or f"http://127.0.0.1:{temporary_stack.free_port()}",
            admin_key=(key or os.environ.get(ADMIN_KEY, "")) if url else secrets.token_urlsafe(32),
            **sizes,
        )
        with (
            temporary_stack.stopped_like_interrupted(),
            nullcontext() if url else temporary_stack.own_stack(plan, keep=keep),
            progress.bar("registering", plan.registrations, quiet=as_json) as update,
        ):
            report = uvloop.run(rehearse(plan, update))
    except RehearsalError as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 2
    show(report, as_json=as_json)
    return 0 if report.passed else 1
