-- The atomic counter for the original tables, "Event" and "Registration" as Prisma makes them.
-- All or nothing: on any error the database is as it was.

BEGIN;

-- Sessions that arrive meanwhile wait behind this one, so this one must not wait for long itself.
SET LOCAL lock_timeout = '10s';

-- A registration between the sum and the commit would make the counter wrong from the start.
LOCK TABLE "Event" IN ACCESS EXCLUSIVE MODE;
LOCK TABLE "Registration" IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE "Event" ADD COLUMN "spotsReserved" INTEGER NOT NULL DEFAULT 0;

COMMENT ON COLUMN "Event"."spotsReserved" IS 'atomic counter for confirmed spots, prevents race conditions';

UPDATE "Event"
SET "spotsReserved" = confirmed.spots
FROM (
    SELECT "Event".id, COALESCE(SUM("Registration"."spotsCount"), 0) AS spots
    FROM "Event"
    LEFT JOIN "Registration"
        ON "Registration"."eventId" = "Event".id AND "Registration".status = 'CONFIRMED'
    GROUP BY "Event".id
) AS confirmed
WHERE confirmed.id = "Event".id;

COMMIT;
