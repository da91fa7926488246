"""PostgreSQL under the service: its disk, the primary and a standby, and what the harness asks of them.

The sessions of the harness pass the relays by.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from ops import embedded
from ops.embedded import data_dir
from shared.errors import ExpectedError
from tests.chaos import servers
from tests.chaos.disk import Disk
from tests.chaos.servers import Programs
from tests.standbys import STANDBY_NAME, Standby

POLL_SECONDS = 0.02
WRITABLE_SECONDS_MAX = 30.0
CAUGHT_UP_SECONDS_MAX = 30.0

POISON = "Poison"
"""A registration with a name that begins like this cannot be written."""
TRIGGERS = f"""
    CREATE FUNCTION chaos_poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'poisoned' USING ERRCODE = '23514'; END $$;
    CREATE TRIGGER chaos_poison BEFORE INSERT ON registration
    FOR EACH ROW WHEN (NEW.name LIKE '{POISON}%') EXECUTE FUNCTION chaos_poison();
    CREATE TABLE chaos_erased (event_id uuid, command_id uuid, payload jsonb,
                               PRIMARY KEY (event_id, command_id));
    CREATE FUNCTION chaos_erased() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_erased VALUES (OLD.event_id, OLD.id, OLD.payload) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_erased AFTER UPDATE OF payload ON command
    FOR EACH ROW EXECUTE FUNCTION chaos_erased();
    CREATE TABLE chaos_set_aside (event_id uuid, command_id uuid, PRIMARY KEY (event_id, command_id));
    CREATE FUNCTION chaos_set_aside() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_set_aside VALUES (NEW.event_id, NEW.command_id) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_set_aside AFTER INSERT ON trouble
    FOR EACH ROW WHEN (NEW.command_id IS NOT NULL) EXECUTE FUNCTION chaos_set_aside();
"""
"""The first makes poison of a name. The others keep, for the judge, each payload that is erased, and each
command that is set aside for a while."""
_PENDING = "SELECT count(*), coalesce(max(seq), 0) FROM pending_command WHERE seq <= %s"
_DRIFTING = """
    SELECT id::text FROM event
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(spots_count) FILTER (WHERE status = 'CONFIRMED'), 0) AS confirmed,
               count(*) FILTER (WHERE status = 'WAITLIST') AS waiting
        FROM registration WHERE event_id = event.id
    ) AS found
    WHERE updated_at > now() - interval '1 minute'
      AND (spots_reserved, waitlist_length) IS DISTINCT FROM (confirmed::integer, waiting::integer)
"""
_LAST_SEQ = "SELECT last_value FROM command_seq_seq"
_SESSIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'admitone-%'
"""
_CAUGHT_UP = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync' AND flush_lsn >= %s::pg_lsn"


class HarnessError(ExpectedError):
    """The run cannot go on; the message says why."""


class Database:
    """The primary, `postgres`; a standby takes its place at a failover, in folders of its own."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.data = embedded.prepare(folder / "data")
        self.disk = Disk(folder / "disk")
        self.postgres = servers.postgres(self.data, programs)
        self.postgres.cluster = self.disk.folder / "primary"

    @contextmanager
    def running_database(self) -> Iterator[None]:
        """Run the primary while the block lasts, or the standby that was promoted meanwhile."""
        with self.disk, ExitStack() as ends:
            self._standbys = ends
            try:
                self.postgres.start()
                self.postgres.wait_ready()
                yield
            finally:
                self.postgres.stop()

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run plain SQL in a session of its own, which may write even to a read-only database."""
        with self.session() as session:
            found = session.execute(statement.encode(), parameters or None)
            return found.fetchall() if found.description else []

    @contextmanager
    def session(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Yield a session of the harness, past the relays; each statement commits."""
        url = embedded.addresses(self.postgres.data).database_url.replace("+psycopg", "")
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(url, autocommit=True, options=options, connect_timeout=5) as session:
            yield session

    def sessions(self) -> list[int]:
        """Return the server's processes of the service's sessions."""
        return [pid for (pid,) in self.query(_SESSIONS)]

    def last_seq(self) -> int:
        """Return the number of the newest command."""
        return int(self.query(_LAST_SEQ)[0][0])

    def wait_settled(self, seq: int, seconds_max: float) -> int:
        """Wait until all commands up to this number are settled; return how many are not."""
        until = time.monotonic() + seconds_max
        left = -1
        while left and time.monotonic() < until:
            with suppress(psycopg.OperationalError), self.session() as session:
                while left and time.monotonic() < until:
                    [(left, _)] = session.execute(_PENDING, [seq]).fetchall()
                    time.sleep(POLL_SECONDS if left else 0)
        return left

    def drifting(self) -> list[str]:
        """Return the events of the last minute of which a snapshot's counters differ from its rows."""
        return [id_ for (id_,) in self.query(_DRIFTING)]

    def wait_writable(self) -> None:
        """Return once PostgreSQL takes writes."""
        self.postgres.wait_ready(WRITABLE_SECONDS_MAX)

    def add_standby(self, sockets: Path, port: int) -> Standby:
        """Return a new standby that reads from this way; from now on each commit waits for it."""
        name = f"standby-{secrets.token_hex(3)}"
        data = embedded.prepare(self.data.with_name(name))
        self._standbys.enter_context(embedded.locked(data))
        standby = Standby(data, self.postgres, sockets, port)
        standby.cluster = self.disk.folder / name
        self._standbys.callback(standby.stop)
        standby.start()
        standby.wait_ready()
        self.query(f"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({STANDBY_NAME})'")
        self.query("SELECT pg_reload_conf()")
        # A commit of before waits for no standby: what was told of it must be there as well.
        until = time.monotonic() + CAUGHT_UP_SECONDS_MAX
        caught_up = False
        while not caught_up:
            [(waits, position)] = self.query(
                "SELECT current_setting('synchronous_standby_names') <> '', pg_current_wal_lsn()::text"
            )
            with self.session() as session:
                caught_up = waits and session.execute(_CAUGHT_UP.encode(), [position]).rowcount > 0
            if time.monotonic() > until:
                raise HarnessError(f"the standby does not catch up{standby.last_words()}")
        return standby

    def promote(self, standby: Standby) -> Path:
        """Let a standby be the primary, which was killed; return its socket."""
        self.postgres = standby
        self.query("SELECT pg_promote(true)")
        self.wait_writable()
        return standby.sockets / f".s.PGSQL.{data_dir.POSTGRES_PORT}"
