"""The commands of API keys: keys create, keys list, keys revoke, and assign."""

import re
import sys
from functools import partial
from typing import Annotated

import typer

from ops.cli import service_commands
from ops.cli.service_commands import DATA, AsJson, Data
from shared.domain import access, commands
from shared.domain.access import Principal, Scope

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def _key_name(value: str) -> str:
    if not re.fullmatch(access.NAME, value):
        raise typer.BadParameter("1 to 64 ASCII letters, digits, blanks and any of . _ - inside")
    return value


def _organiser(value: str | None) -> str | None:
    return service_commands.clean_text(value, commands.NAME_LENGTH_MAX)


@keys.command("create")
def create(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[str, typer.Argument(callback=_key_name, help="The actor in the audit trail.")],
    *,
    scopes: Annotated[list[Scope], typer.Option("--scope", help="A permission; give it several times.")],
    organiser: Annotated[
        str | None,
        typer.Option(callback=_organiser, help="Only for its events; without it for those of all."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=access.DAYS_MAX, help="Valid so long.")] = access.DAYS,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Create an API key; standard output shows it this once."""
    from ops.maintenance import api_keys  # noqa: PLC0415

    principal = Principal(name=name, organiser_id=None, scopes=frozenset(scopes))
    url = service_commands.service(data).database_url
    key, stored = api_keys.create(url, principal, organiser=organiser, days=days)
    service_commands.answer({"key": key, "api_key": stored}, key, as_json=as_json)
    if not as_json:
        print(f"Valid until {stored['expires_at'][:10]}; it cannot be shown again.", file=sys.stderr)


@keys.command("list")
def list_keys(*, data: Data = DATA, as_json: AsJson = False) -> None:
    """List all API keys by their prefixes."""
    from ops.maintenance import api_keys  # noqa: PLC0415

    stored = api_keys.listed(service_commands.service(data).database_url)
    service_commands.answer({"keys": stored}, partial(api_keys.show, stored), as_json=as_json)


@keys.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, as `keys list` shows it.")],
    *,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key; after a second it is accepted nowhere."""
    from ops.maintenance import api_keys  # noqa: PLC0415

    revoked = api_keys.revoke(service_commands.service(data).database_url, prefix)
    shown = f"Revoked: {revoked['prefix']} ({revoked['name']})."
    service_commands.answer(revoked, shown, as_json=as_json)


def assign(
    organiser: Annotated[
        str, typer.Argument(callback=_organiser, help="Made if there is none of this name.")
    ],
    events: Annotated[list[str], typer.Argument(help="Slugs or ids.")],
    *,
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Give events to an organiser, such as adopted ones."""
    from ops.maintenance import api_keys  # noqa: PLC0415

    given = api_keys.assign(service_commands.service(data).database_url, organiser, events)
    service_commands.answer(
        {"organiser": organiser, "events": given}, f"{organiser} has {', '.join(given)}.", as_json=as_json
    )
