-- Takes the counter of the original tables out again: the rollback of prisma-counter-up.sql.
-- Registrations are not touched.

BEGIN;

SET LOCAL lock_timeout = '10s';

ALTER TABLE "Event" DROP COLUMN "spotsReserved";

COMMIT;
