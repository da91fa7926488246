"""The statements that write an adopted event."""

from psycopg import sql

HELD = """
    SELECT email_key, id FROM registration
    WHERE event_id = %s AND email_key = ANY(%s) AND status <> 'CANCELLED' AND id <> ALL(%s)
"""
# From the ledger's own sequence: before the places of all later commands, and behind all earlier ones.
PLACES = "SELECT nextval(pg_get_serial_sequence('command', 'seq')) FROM generate_series(1, %s)"
INSERT_EVENT = """
    INSERT INTO event (id, created_at, slug, title, capacity, paused, closes_at)
    VALUES (%(id)s, coalesce(%(created_at)s, now()), %(slug)s, %(title)s, %(capacity)s, true, now())
    ON CONFLICT (id) DO NOTHING
"""
INSERT_ADOPTION = """
    INSERT INTO adoption (event_id, source_id) VALUES (%s, %s)
    ON CONFLICT (event_id) DO UPDATE SET source_id = excluded.source_id
    WHERE adoption.source_id IS DISTINCT FROM excluded.source_id
"""
# The row is what a worker locks before it decides the event's commands, so none is decided during a chunk.
LOCK_EVENT = """
    SELECT event.*, now() AS at, paused AND closes_at <= now() AS is_closed,
           (SELECT finished_at IS NOT NULL FROM adoption WHERE event_id = event.id) AS is_finished
    FROM event WHERE id = %s FOR UPDATE
"""
CLOSE = """
    WITH reopened AS (UPDATE adoption SET finished_at = NULL WHERE event_id = %(event_id)s)
    UPDATE event SET paused = true, opens_at = NULL, closes_at = now() WHERE id = %(event_id)s
"""
FINISH = "UPDATE adoption SET finished_at = now() WHERE event_id = %s"
SET = sql.SQL("""
    UPDATE event
    SET {assignments}, overbooked_spots = greatest(spots_reserved - {capacity}, 0), updated_at = now(),
        former_slugs = CASE WHEN slug = {slug} THEN former_slugs ELSE former_slugs || slug END,
        slug_released_at = CASE WHEN slug = {slug} THEN slug_released_at ELSE clock_timestamp() END
    WHERE id = {event_id}
""")
HASH = "SELECT hash FROM audit_entry WHERE event_id = %s AND number = %s"
ADOPTED_IDS = """
    SELECT registration_id FROM audit_entry
    WHERE event_id = %s AND kind = 'adopt' AND registration_id IS NOT NULL AND from_status IS NULL
"""
IDS = "SELECT id FROM registration WHERE event_id = %s"
IS_CHANGED = "SELECT EXISTS (SELECT FROM audit_entry WHERE event_id = %s AND actor <> 'adoption')"
WRITTEN = """
    SELECT id, seq, name, email, email_key, spots_count, status, created_at
    FROM registration WHERE event_id = %s AND id = ANY(%s)
"""
COPY_REGISTRATIONS = """
    COPY registration (event_id, id, seq, name, email, email_key, spots_count, status, created_at) FROM STDIN
"""
# A registration that comes later in the source gives its address up first, and gets its own in its turn.
FREE_ADDRESSES = """
    UPDATE registration SET email = NULL, email_key = NULL
    WHERE event_id = %s AND email_key = ANY(%s) AND status <> 'CANCELLED' AND id <> ALL(%s)
"""
DELETE = "DELETE FROM registration WHERE event_id = %s AND id = ANY(%s)"
COPY_TRAIL = """
    COPY audit_entry (event_id, number, kind, actor, registration_id, from_status, to_status, before_after,
                      spots_delta, spots_reserved, at, hash) FROM STDIN
"""
SET_COUNTERS = """
    UPDATE event
    SET spots_reserved = %(spots_reserved)s, waitlist_length = %(waitlist_length)s,
        overbooked_spots = greatest(%(spots_reserved)s - capacity, 0), audit_seq = %(number)s
    WHERE id = %(event_id)s
    RETURNING overbooked_spots
"""
# The head of the line blocks until it fits, so the promotable registrations are the line's beginning. A party
# larger than the capacity is not in line.
PROMOTABLE = """
    SELECT count(*)
    FROM (SELECT sum(spots_count) OVER (ORDER BY seq) AS needed
          FROM registration
          WHERE event_id = %(event_id)s AND status = 'WAITLIST'
            AND spots_count <= (SELECT capacity FROM event WHERE id = %(event_id)s)) AS waiting
    WHERE needed <= (SELECT capacity - spots_reserved FROM event WHERE id = %(event_id)s)
"""
