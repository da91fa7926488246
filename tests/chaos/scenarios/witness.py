"""A witness of ownership: for each batch, the session that wrote it and the buckets that it had locked.

A trigger notes the locks when a batch writes its outcomes, and again in its COMMIT. The numbers of the notes
are given under the lock of the event's row, so they are the order of an event's commits.
"""

from collections import Counter, defaultdict
from uuid import UUID

from msgspec import Struct

from shared.domain import ids
from shared.postgres import locks
from tests.chaos.service import Service

_HELD = f"""
    ARRAY(SELECT objid::integer FROM pg_locks
          WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND classid::bigint = {locks.BUCKET}
            AND objsubid = 2 AND granted)
"""
_INSTALL = f"""
    CREATE TABLE witness (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        pid integer, events uuid[], at_write integer[], at_commit integer[]
    );
    CREATE FUNCTION witness_write() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO witness (pid, events, at_write)
        SELECT pg_backend_pid(), ARRAY(SELECT DISTINCT event_id FROM settled), {_HELD};
        RETURN NULL;
    END $$;
    CREATE FUNCTION witness_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE witness SET at_commit = {_HELD} WHERE number = NEW.number;
        RETURN NULL;
    END $$;
    CREATE TRIGGER witness_write AFTER INSERT ON outcome
    REFERENCING NEW TABLE AS settled FOR EACH STATEMENT EXECUTE FUNCTION witness_write();
    CREATE CONSTRAINT TRIGGER witness_commit AFTER INSERT ON witness
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness_commit();
"""
_READ = "SELECT pid, events::text[], at_write, at_commit FROM witness ORDER BY number"


class Testimony(Struct, kw_only=True):
    """The batches of each session, the moves of events to another session, and batches without ownership."""

    batches: Counter[int]
    moves: int
    violations: list[str]


def install(service: Service) -> None:
    """Let the database note the owner of each batch from now on."""
    service.query(_INSTALL)


def testimony(service: Service) -> Testimony:
    """Return what the notes of all batches say."""
    batches: Counter[int] = Counter()
    owners: defaultdict[str, list[int]] = defaultdict(list)
    violations = []
    for pid, events, at_write, at_commit in service.query(_READ):
        batches[pid] += 1
        for event in events:
            bucket = ids.bucket(UUID(event))
            if bucket not in at_write or bucket not in at_commit:
                violations.append(f"owner: session {pid} decided event {event} without its bucket {bucket}")
            if owners[event][-1:] != [pid]:
                owners[event].append(pid)
    moves = sum(len(tenures) - 1 for tenures in owners.values())
    return Testimony(batches=batches, moves=moves, violations=violations)
