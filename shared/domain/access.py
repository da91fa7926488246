"""Access to the admin routes: API keys, their scopes and their principals (pure).

An API key is `ao_<12 hexadecimal digits>_<43 characters>`. The part before the second underscore is the
prefix: it names the key in lists and may be shown. The rest is random and a secret. The database has the
key's SHA-256 only, which is enough for a secret of 256 random bits.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

PREFIX = re.compile(r"ao_[0-9a-f]{12}")
KEY = re.compile(rf"{PREFIX.pattern}_[A-Za-z0-9_-]{{43}}")
NAME = r"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?$"
"""ASCII letters only: the audit trail shows the name, so no letter may look like another one."""
DAYS_MAX = 3_650
DAYS = 365
RESERVED_NAMES = frozenset(
    (
        "public",
        "holder",
        "admin",
        "viewer",
        "verify",
        "adoption",
        "migration",
        "promotion",
        "system",
        "operator",
    )
)
"""The names that the audit trail gives to actors that have no API key of their own, in lower case."""

_PREFIX_BYTES = 6
_SECRET_BYTES = 32


class Scope(StrEnum):
    """A permission of a key."""

    EVENTS_READ = "events:read"
    """Events, registrations without names and addresses, audit trails, figures."""
    EVENTS_WRITE = "events:write"
    """Create events and change their settings."""
    REGISTRATIONS_WRITE = "registrations:write"
    """Change and delete registrations."""
    PERSONAL_READ = "personal:read"
    """Names, email addresses and the reasons of admins, in all that another scope shows; search by them."""
    OPERATE = "operate"
    """Heal counters; create, list and revoke API keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """The principal of a key: the actor in the audit trail, with the permissions of the key.

    `organiser_id` limits the key to the events of one organiser. It is None for a key of the service, which
    is for the events of all organisers and for those of none.
    """

    name: str
    organiser_id: UUID | None
    scopes: frozenset[Scope]

    @property
    def reads_personal(self) -> bool:
        """The principal may see names, email addresses and reasons."""
        return Scope.PERSONAL_READ in self.scopes


ADMIN = Principal(name="admin", organiser_id=None, scopes=frozenset(Scope))
"""The principal of `ADMITONE_ADMIN_KEY`."""
VIEWER = Principal(
    name="viewer", organiser_id=None, scopes=frozenset((Scope.EVENTS_READ, Scope.PERSONAL_READ))
)
"""The principal of `ADMITONE_VIEWER_KEY`."""


def new_key() -> str:
    """Return a fresh API key."""
    return f"ao_{secrets.token_hex(_PREFIX_BYTES)}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def prefix(key: str) -> str:
    """Return the part of an API key that may be shown."""
    return "_".join(key.split("_", 2)[:2])


def digest(key: str) -> bytes:
    """Return the digest by which a key is found and compared."""
    return hashlib.sha256(key.encode()).digest()
