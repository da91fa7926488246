"""The commands for operators of a service: status, verify, audit, rehearse, adopt, tidy, erase.

They work on the service that `ADMITONE_DATABASE_URL` and the other URLs name, or else on the stack that runs
in the data folder.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from shared.domain import commands, texts

if TYPE_CHECKING:
    from ops.maintenance.audit import AuditedEvent
    from shared.settings import Settings

Data = Annotated[Path, typer.Option(help="The data folder of a running stack.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Events = Annotated[list[str] | None, typer.Argument(help="Slugs or ids; all events when left out.")]
DATA = Path(".admitone")
_DAYS_MAX = 36_500  # a hundred years: PostgreSQL takes longer times, and Python cannot read them

audit = typer.Typer(help="Check and replay the audit trail.", no_args_is_help=True)


def status(*, data: Data = DATA, as_json: AsJson = False) -> None:
    """Show workers, the events that each owns, what is pending, and drift."""
    from ops.maintenance import status as statuses  # noqa: PLC0415

    now = statuses.read(service(data).database_url)
    answer(statuses.as_json(now), partial(statuses.show, now), as_json=as_json)


def verify(
    events: Events = None,
    *,
    heal: Annotated[
        bool, typer.Option("--heal", help="Heal what differs, counters by their owners.")
    ] = False,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Compare counters with rows, and the numbering with the ledger; exit status 1 where they differ."""
    from ops.maintenance import verification  # noqa: PLC0415

    if heal:
        from ops.maintenance import healing  # noqa: PLC0415

        verified = healing.run(service(data), events or [])
    else:
        verified = verification.run(service(data), events or [])
    shown = partial(verification.show, verified.events, verified.numbering_lag, verified.events_gone)
    answer(verification.as_json(verified), shown, as_json=as_json)
    raise typer.Exit(0 if verified.in_sync else 1)


@audit.command("check")
def audit_check(events: Events = None, *, data: Data = DATA, as_json: AsJson = False) -> None:
    """Verify numbers and hashes of the trail; exit status 1 where an entry is missing or broken."""
    from ops.maintenance import audit  # noqa: PLC0415

    _show_audited(audit.check(service(data).database_url, events or []), as_json=as_json)


@audit.command("replay")
def audit_replay(
    event: Annotated[str, typer.Argument(help="The event's slug or id.")],
    *,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Rebuild statuses and counter from the trail; exit status 1 where the tables differ."""
    from ops.maintenance import audit  # noqa: PLC0415

    _show_audited([audit.replay(service(data).database_url, event)], as_json=as_json)


def rehearse(  # noqa: PLR0913 - one parameter for each option
    *,
    registrations: Annotated[int, typer.Option(help="Registrations to send.")] = 10_000,
    capacity: Annotated[int, typer.Option(help="Spots of the event.")] = 500,
    clients: Annotated[int, typer.Option(help="Clients that send at once.")] = 200,
    party_max: Annotated[int, typer.Option(help="Largest party; sizes are drawn from 1 to it.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same registrations.")] = 1,
    url: Annotated[
        str | None, typer.Option(help="A running service; without it, a stack of its own.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The service's admin key, or ADMITONE_ADMIN_KEY.")] = None,
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the own stack's data.")] = False,
) -> None:
    """Rehearse a drop over HTTP, and have an independent checker verify every promise."""
    from ops.rehearsal import rehearse  # noqa: PLC0415

    raise typer.Exit(
        rehearse.command(
            registrations=registrations,
            capacity=capacity,
            clients=clients,
            party_max=party_max,
            seed=seed,
            url=url,
            key=key,
            as_json=as_json,
            keep=keep,
        )
    )


def adopt(  # noqa: PLR0913 - one parameter for each option
    source_url: Annotated[
        str, typer.Argument(help='The database with the tables "Event" and "Registration".')
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report, and change nothing.")] = False,
    mapping: Annotated[
        Path | None, typer.Option(help="A file that says what the source's columns mean.")
    ] = None,
    print_mapping: Annotated[
        bool, typer.Option("--print-mapping", help="Print the mapping as a file to edit, and adopt nothing.")
    ] = False,
    closed: Annotated[bool, typer.Option("--closed", help="Adopt every event closed.")] = False,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Adopt the events and registrations of an existing system; a later run brings them up to date."""
    from ops.adoption import adopt  # noqa: PLC0415

    if print_mapping:
        adopt.print_mapping(source_url, mapping)
        return
    status = adopt.command(
        service(data).database_url,
        source_url,
        dry_run=dry_run,
        as_json=as_json,
        mapping_file=mapping,
        closed=closed,
    )
    raise typer.Exit(status)


def tidy(
    *,
    days: Annotated[int, typer.Option(min=0, max=_DAYS_MAX, help="Keep everything at least this long.")] = 30,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Forget old idempotency keys, payloads, and commands that have no effect left; for a nightly job."""
    from ops.maintenance import retention  # noqa: PLC0415

    forgotten = retention.tidy(service(data).database_url, days)
    answer(
        asdict(forgotten),
        f"Forgotten: {forgotten.keys} idempotency keys. Emptied: {forgotten.payloads} payloads. "
        f"Deleted: {forgotten.commands} refused or failed commands, and those of "
        f"{forgotten.deletions} deleted registrations.",
        as_json=as_json,
    )


def clean_text(value: str | None, length_max: int, *, length_min: int = 1) -> str | None:
    """Return the text of an option in the form in which it is kept; raises `BadParameter` with the reason."""
    if value is None:
        return None
    try:
        text = texts.clean(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not length_min <= len(text) <= length_max:
        raise typer.BadParameter(f"must be text of {length_min} to {length_max} characters")
    return text


def _reason(value: str | None) -> str | None:
    return clean_text(value, commands.REASON_LENGTH_MAX, length_min=0)


def erase(  # noqa: PLR0913 - one parameter for each option
    *,
    registration: Annotated[UUID | None, typer.Option(help="The id of a registration.")] = None,
    address: Annotated[str | None, typer.Option(help="An email address; - reads it from the input.")] = None,
    ended_days: Annotated[
        int | None, typer.Option(min=0, max=_DAYS_MAX, help="All at events that ended before.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="Only at the event of this slug or id.")] = None,
    reason: Annotated[
        str | None, typer.Option(callback=_reason, help="For the audit trail; nothing personal.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and erase nothing.")] = False,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Erase names and addresses, by registration, address or age; registrations and spots stay."""
    from ops.maintenance import erasure  # noqa: PLC0415

    if sum(option is not None for option in (registration, address, ended_days)) != 1:
        raise typer.BadParameter("give one of --registration, --address and --ended-days")
    settings = service(data)
    found = erasure.subjects(
        settings,
        registration=registration,
        address=sys.stdin.readline() if address == "-" else address,
        ended_days=ended_days,
        event=event,
    )
    report = erasure.erase(settings, found, reason, dry_run=dry_run)
    answer(
        asdict(report),
        f"Registrations {'to erase' if dry_run else 'erased'}: {report.registrations}. "
        f"Payloads {'to empty' if dry_run else 'emptied'}: {report.commands}. "
        f"Commands that are pending: {report.pending}.",
        as_json=as_json,
    )
    if report.samples_stay:
        print(
            "PostgreSQL's statistics may still have samples of the values, which this role may not renew: "
            "run ANALYZE registration, command as the owner of the tables.",
            file=sys.stderr,
        )


def service(data: Path) -> "Settings":
    """Return the settings of the environment's service, or else of the running stack."""
    from ops.stack import programs, state_file  # noqa: PLC0415
    from shared import settings  # noqa: PLC0415

    if "ADMITONE_DATABASE_URL" not in os.environ:
        running = state_file.running(data)
        if running is None:
            raise settings.SettingsError(
                f"nothing runs in {data}, and ADMITONE_DATABASE_URL is not set: "
                "start ./admitone up, name its folder with --data, or set the variable"
            )
        os.environ.update(running.environment())
        os.environ[programs.DIGEST_KEY_VARIABLE] = state_file.secret_key(data)
    return settings.load(settings.Settings)


def _show_audited(events: "list[AuditedEvent]", *, as_json: bool) -> None:
    def show() -> None:
        for event in events:
            print(f"{event.event}: {event.entries} entries, {'; '.join(event.problems) or 'all in order'}")

    answer({"events": [asdict(event) for event in events]}, show, as_json=as_json)
    raise typer.Exit(1 if any(event.problems for event in events) else 0)


def answer(value: object, shown: Callable[[], None] | str, *, as_json: bool) -> None:
    """Print a command's result: as JSON with keys in camelCase, or as it is shown to people."""
    if as_json:
        print(json.dumps(_camel(value), indent=2))
    elif isinstance(shown, str):
        print(shown)
    else:
        shown()


def _camel(value: object) -> object:
    """Return the value with its keys in camelCase, as in the HTTP bodies."""
    if isinstance(value, dict):
        return {texts.camel(key): _camel(item) for key, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value
