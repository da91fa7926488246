-- Migration 0002 as plain SQL: the atomic counter, backfilled from the confirmed registrations.
-- All or nothing: on any error the database is as it was. The same as `admitone migrate` does at this step.

BEGIN;

-- Sessions that arrive meanwhile wait behind this one, so this one must not wait for long itself.
SET LOCAL lock_timeout = '10s';

-- A registration between the sum and the commit would make the counter wrong from the start.
LOCK TABLE event IN ACCESS EXCLUSIVE MODE;
LOCK TABLE registration IN SHARE ROW EXCLUSIVE MODE;

DO $$
BEGIN
    IF (SELECT version_num FROM alembic_version) IS DISTINCT FROM '0001' THEN
        RAISE EXCEPTION 'this script is for a database at migration 0001; nothing was changed';
    END IF;
END
$$;

ALTER TABLE event ADD COLUMN spots_reserved integer NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN overbooked_spots integer NOT NULL DEFAULT 0;

COMMENT ON COLUMN event.spots_reserved IS
    'atomic counter for confirmed spots, prevents race conditions';
COMMENT ON COLUMN event.overbooked_spots IS
    'spots confirmed beyond capacity when that was found; shrinks, and lets nobody in';

-- An event that was oversold keeps its registrations and its capacity; the excess is written down.
UPDATE event
SET spots_reserved = confirmed.spots,
    overbooked_spots = GREATEST(confirmed.spots - event.capacity, 0)
FROM (
    SELECT event.id, COALESCE(SUM(registration.spots_count), 0) AS spots
    FROM event
    LEFT JOIN registration ON registration.event_id = event.id AND registration.status = 'CONFIRMED'
    GROUP BY event.id
) AS confirmed
WHERE confirmed.id = event.id;

ALTER TABLE event ADD CONSTRAINT event_spots_reserved_not_negative CHECK (spots_reserved >= 0);
ALTER TABLE event ADD CONSTRAINT event_overbooked_spots_not_negative CHECK (overbooked_spots >= 0);
ALTER TABLE event ADD CONSTRAINT event_not_oversold CHECK (spots_reserved <= capacity + overbooked_spots);

UPDATE alembic_version SET version_num = '0002';

COMMIT;
