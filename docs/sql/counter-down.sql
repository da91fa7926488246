-- Takes the counter back out: the rollback of counter-up.sql. Registrations are not touched.
-- All or nothing: on any error the database is as it was.

BEGIN;

SET LOCAL lock_timeout = '10s';

LOCK TABLE event IN ACCESS EXCLUSIVE MODE;

DO $$
BEGIN
    IF (SELECT version_num FROM alembic_version) IS DISTINCT FROM '0002' THEN
        RAISE EXCEPTION 'this script is for a database at migration 0002; nothing was changed';
    END IF;
END
$$;

ALTER TABLE event DROP CONSTRAINT event_not_oversold;
ALTER TABLE event DROP CONSTRAINT event_overbooked_spots_not_negative;
ALTER TABLE event DROP CONSTRAINT event_spots_reserved_not_negative;
ALTER TABLE event DROP COLUMN overbooked_spots;
ALTER TABLE event DROP COLUMN spots_reserved;

UPDATE alembic_version SET version_num = '0001';

COMMIT;
