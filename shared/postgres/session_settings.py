"""The settings of PostgreSQL that AdmitOne's sessions set, and those of a database that they rely on.

A role, a database or a server may have other defaults. Then times have another form, statements find other
tables, a transaction that waits for another one fails, or PostgreSQL does not tell of a commit without its
standby. A pooler may drop a session's settings, so `faults` reads those that hold.
"""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, text

_FORMS = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
}
_TIMEOUTS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""Those of a role or a database are for other programs; AdmitOne's parts set their own behind these."""
_PLANS = {
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_bitmapscan": "on",
    "enable_nestloop": "on",
    "gin_fuzzy_search_limit": "0",
    "jit": "off",
}
"""The ways by which statements find their rows; without one of them they read whole tables and indexes.

A bound on a search would leave out some of its rows, and to compile a statement takes longer than to run it.
"""
_RULES = {
    "search_path": "public",
    "default_transaction_isolation": r"read\ committed",
    "default_transaction_deferrable": "off",
    "client_min_messages": "notice",
}


def _arguments(settings: Mapping[str, str]) -> dict[str, str]:
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return {"client_encoding": "UTF8", "options": options}


ARGUMENTS = _arguments(_FORMS | _TIMEOUTS | _PLANS | _RULES)
"""libpq's parameters of every session; a session adds its own options behind these."""
READING = _arguments(
    {name: _FORMS[name] for name in _FORMS.keys() - {"timezone"}} | _TIMEOUTS | {"row_security": "off"}
)
"""Those of a session that reads the tables of another system, which has its own schemas and time zone.

A policy that would hide rows from its role is an error.
"""

_NEEDED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "server_encoding": ("UTF8: make the database with ENCODING 'UTF8'", lambda value: value == "UTF8"),
    "client_encoding": ("UTF8", lambda value: value == "UTF8"),
    "TimeZone": ("UTC", lambda value: value in {"UTC", "Etc/UTC"}),
    "DateStyle": ("ISO", lambda value: value.startswith("ISO")),
    "search_path": ("public", lambda value: value == "public"),  # here the first schema that it finds
    "default_transaction_isolation": ("read committed", lambda value: value == "read committed"),
    "standard_conforming_strings": ("on", lambda value: value == "on"),
    "client_min_messages": ("notice", lambda value: value not in {"error", "fatal", "panic"}),
    "session_replication_role": ("origin", lambda value: value != "replica"),
    "transaction_timeout": ("0", lambda value: value == "0"),  # unknown to 15 and 16, so no session sets it
}
_NAMES = ", ".join(f"('{name}')" for name in _NEEDED)
_FOUND = text(f"""
    SELECT name, CASE WHEN name = 'transaction_timeout' THEN coalesce(current_setting(name, true), '0')
                      WHEN name <> 'search_path' THEN current_setting(name)
                      ELSE coalesce(current_schema(), 'a path to no schema') END AS value
    FROM (VALUES {_NAMES}) AS needed (name)
""")


def faults(connection: Connection) -> list[str]:
    """Return a sentence for each setting of this session by which AdmitOne would not work as promised."""
    found = {row.name: row.value for row in connection.execute(_FOUND)}
    return [
        f"{name} is {found[name]}, and must be {wanted}"
        for name, (wanted, is_right) in _NEEDED.items()
        if not is_right(found[name])
    ]
