"""The schema, as SQLAlchemy Core tables; `migrations/` makes it, `alembic check` compares the two.

Every constraint has a name: SQL holds the invariants, and a violated name says which one. All keys
begin with the event's id, so that the database can be divided by event.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

REVISION = "0020"
"""The migration that this schema is made by; a service on another one is not ready."""

SLUG_HELD_SECONDS = 1.0
"""The time for which no other event may have a slug that an event gave up."""

_EVENT_TIMES = "opens_at, closes_at, promote_until, cancel_until, created_at, updated_at"

COUNTER_COMMENT = "atomic counter for confirmed spots, prevents race conditions"

organiser = Table(
    "organiser",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("id", name="organiser_pkey"),
    UniqueConstraint("name", name="organiser_name_key"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("prefix", Text, nullable=False, comment="the part of the key that may be shown"),
    Column("digest", LargeBinary, nullable=False, comment="SHA-256 of the key"),
    Column("name", Text, nullable=False, comment="the actor in the audit trail"),
    Column(
        "organiser_id",
        Uuid,
        ForeignKey("organiser.id", name="api_key_organiser_fkey"),
        comment="null for a key of the service, for all events",
    ),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_by", Text, nullable=False, comment="the actor that made the key"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("prefix", name="api_key_pkey"),
    UniqueConstraint("digest", name="api_key_digest_key"),
)

event = Table(
    "event",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("slug", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("spots_reserved", Integer, nullable=False, server_default=text("0"), comment=COUNTER_COMMENT),
    Column(
        "overbooked_spots",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="spots confirmed beyond capacity when that was found; shrinks, and lets nobody in",
    ),
    Column(
        "waitlist_length",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="registrations that wait; moves in the same statement as spots_reserved",
    ),
    Column("waitlist_enabled", Boolean, nullable=False, server_default=true()),
    Column("waitlist_limit", Integer),
    Column("promotion_policy", Text, nullable=False, server_default=text("'strict_fifo'")),
    Column("auto_promote", Boolean, nullable=False, server_default=true()),
    Column("max_spots_per_registration", Integer, nullable=False, server_default=text("10")),
    Column("opens_at", DateTime(timezone=True)),
    Column("closes_at", DateTime(timezone=True)),
    Column(
        "promote_until",
        DateTime(timezone=True),
        comment="commands accepted from then on promote no registration",
    ),
    Column("cancel_until", DateTime(timezone=True), comment="holders cannot cancel from then on"),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("audit_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("follow_up_id", Uuid, comment="its newest follow-up; promotion waits for it while it is pending"),
    Column(
        "archived",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="closed, and in no list",
    ),
    Column(
        "deleted",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="closed for good and hidden; its rows stay",
    ),
    Column("former_slugs", ARRAY(Text), comment="the slugs that it gave up lately, for other events"),
    Column("slug_released_at", DateTime(timezone=True)),
    Column(
        "organiser_id",
        Uuid,
        ForeignKey("organiser.id", name="event_organiser_fkey"),
        comment="its owner; null for the service's own",
    ),
    UniqueConstraint("slug", name="event_slug_key"),
    CheckConstraint("capacity >= 0", name="event_capacity_not_negative"),
    CheckConstraint("spots_reserved >= 0", name="event_spots_reserved_not_negative"),
    CheckConstraint("spots_reserved <= capacity + overbooked_spots", name="event_not_oversold"),
    CheckConstraint("overbooked_spots >= 0", name="event_overbooked_spots_not_negative"),
    CheckConstraint("waitlist_length >= 0", name="event_waitlist_length_not_negative"),
    CheckConstraint("waitlist_limit >= 0", name="event_waitlist_limit_not_negative"),
    CheckConstraint("max_spots_per_registration > 0", name="event_max_spots_positive"),
    CheckConstraint("promotion_policy IN ('strict_fifo', 'skip_unfit')", name="event_promotion_policy_known"),
    CheckConstraint("closes_at > opens_at", name="event_closes_after_it_opens"),
    CheckConstraint(
        f"least({_EVENT_TIMES}) >= '0001-01-01 00:00:00+00'"
        f" AND greatest({_EVENT_TIMES}) < '10000-01-01 00:00:00+00'",
        name="event_times_readable",
    ),
    Index(
        "event_organiser_idx",
        "organiser_id",
        "created_at",
        "id",
        postgresql_where=text("organiser_id IS NOT NULL"),
    ),
    Index(
        "event_slug_released_idx", "slug_released_at", postgresql_where=text("slug_released_at IS NOT NULL")
    ),
    # Partial, as a plan for an event's id that is made while the table is small could use it otherwise.
    Index("event_created_idx", "created_at", "id", postgresql_where=text("NOT deleted")),
)

registration = Table(
    "registration",
    metadata,
    Column("event_id", Uuid, ForeignKey("event.id", name="registration_event_fkey"), nullable=False),
    Column("id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("spots_count", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("seq", BigInteger, nullable=False, comment="its place: the ledger's seq that put it there"),
    Column(
        "command_id",
        Uuid,
        comment="the command whose id is its receipt; null for an adopted registration without one",
    ),
    Column("email", Text),
    Column("email_key", Text, comment="the address in the form in which two spellings are equal"),
    Column(
        "original_seq",
        BigInteger,
        comment="the place that it had first; null: that of its command, or as it is",
    ),
    PrimaryKeyConstraint("event_id", "id", name="registration_pkey"),
    UniqueConstraint("event_id", "command_id", name="registration_command_key"),
    CheckConstraint("spots_count > 0", name="registration_spots_count_positive"),
    CheckConstraint("status IN ('CONFIRMED', 'WAITLIST', 'CANCELLED')", name="registration_status_known"),
    Index("registration_place_key", "event_id", "seq", unique=True),
    Index(
        "registration_holder_key",
        "event_id",
        "email_key",
        unique=True,
        postgresql_where=text("status <> 'CANCELLED'"),
    ),
    Index(
        "registration_waitlist_idx",
        "event_id",
        "seq",
        postgresql_where=text("status = 'WAITLIST'"),
    ),
    Index(
        "registration_waitlist_size_idx",
        "event_id",
        "spots_count",
        "seq",
        postgresql_where=text("status = 'WAITLIST'"),
    ),
    Index(
        "registration_search_idx",
        text("search_words(event_id, name, email)"),
        postgresql_using="gin",
        # Kilobytes: new words are put into the index in lots, and no transaction pays for a long list.
        postgresql_with={"gin_pending_list_limit": "64"},
    ),
)

# No foreign key to the event: events are never removed, and a key would lock the event's row for
# every accepted command, the one row that must stay free for its owner (decision 0026).
command = Table(
    "command",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("seq", BigInteger, Identity(always=True, cache=1), nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    Column("accepted_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column(
        "version",
        SmallInteger,
        nullable=False,
        server_default=text("1"),
        comment="the version of the commands' format that a reader must know",
    ),
    PrimaryKeyConstraint("event_id", "id", name="command_pkey"),
    Index("command_payload_idx", "accepted_at", postgresql_where=text("payload <> '{}'::jsonb")),
    Index("command_deletion_idx", "accepted_at", postgresql_where=text("kind = 'delete_registration'")),
)

pending_command = Table(
    "pending_command",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("command_id", Uuid, nullable=False),
    PrimaryKeyConstraint("event_id", "seq", name="pending_command_pkey"),
)

outcome = Table(
    "outcome",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("command_id", Uuid, nullable=False),
    Column("body", JSONB, nullable=False),
    Column("settled_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("event_id", "command_id", name="outcome_pkey"),
    Index("outcome_settled_idx", "settled_at", postgresql_using="brin"),
    Index(
        "outcome_failed_idx",
        "event_id",
        "settled_at",
        postgresql_where=text("body ->> 'outcome' = 'failed'"),
    ),
)

idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("key", LargeBinary, nullable=False, comment="SHA-256 of the client's key"),
    Column("command_id", Uuid, nullable=False),
    Column(
        "fingerprint", LargeBinary, nullable=False, comment="keyed digest of what was asked under that key"
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("event_id", "key", name="idempotency_key_pkey"),
    UniqueConstraint("command_id", "event_id", name="idempotency_key_command_key"),
    Index("idempotency_key_created_idx", "created_at", postgresql_using="brin"),
)

ledger_mark = Table(
    "ledger_mark",
    metadata,
    Column("single", Boolean, nullable=False, server_default=true()),
    Column("seq", BigInteger, nullable=False, comment="the numbering had come at least this far"),
    PrimaryKeyConstraint("single", name="ledger_mark_pkey"),
    CheckConstraint("single", name="ledger_mark_single"),
)

audit_entry = Table(
    "audit_entry",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("command_id", Uuid, comment="null for a registration that was there before the trail"),
    Column("kind", Text, nullable=False, comment="the command's kind, or promotion"),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("registration_id", Uuid),
    Column("from_status", Text),
    Column("to_status", Text),
    Column("before_after", JSONB, comment="[before, after] of every setting that changed"),
    Column("spots_delta", Integer, nullable=False),
    Column("spots_reserved", Integer, nullable=False, comment="the counter after this entry"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 over the entry before and this one"),
    PrimaryKeyConstraint("event_id", "number", name="audit_entry_pkey"),
)

trouble = Table(
    "trouble",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("command_id", Uuid, comment="null when the whole event is in trouble"),
    Column("error", Text, nullable=False, comment="the last error, without its details"),
    Column("tries", Integer, nullable=False, server_default=text("1")),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("tried_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint(
        "event_id", "command_id", name="trouble_command_key", postgresql_nulls_not_distinct=True
    ),
)
"""Pending commands that their owner has set aside, and events that it cannot apply; for operators."""

adoption = Table(
    "adoption",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("source_id", Text, comment="the event's id in the source; null if adopted before 0013"),
    Column("begun_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "finished_at",
        DateTime(timezone=True),
        comment="null while registrations may be missing; the event is closed and paused until then",
    ),
    PrimaryKeyConstraint("event_id", name="adoption_pkey"),
)

event_protection = Table(
    "event_protection",
    metadata,
    Column("event_id", Uuid, nullable=False),
    Column("spots_per_address", Integer, comment="the spots that one address may ask for; null: no bound"),
    Column("challenge", Boolean, nullable=False, comment="registering needs a solved proof of work"),
    Column("changed_by", Text, nullable=False, comment="the actor of the latest change"),
    Column("changed_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("event_id", name="event_protection_pkey"),
    CheckConstraint("spots_per_address > 0", name="event_protection_spots_positive"),
    Index("event_protection_changed_idx", "changed_at"),
)
