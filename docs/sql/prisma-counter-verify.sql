-- Every event of the original tables whose counter differs from its confirmed registrations.
-- No row: every counter is right.

SELECT "Event".id,
       "Event".title,
       "Event"."spotsReserved" AS counter,
       COALESCE(SUM("Registration"."spotsCount"), 0) AS actual,
       "Event"."spotsReserved" - COALESCE(SUM("Registration"."spotsCount"), 0) AS difference
FROM "Event"
LEFT JOIN "Registration"
    ON "Registration"."eventId" = "Event".id AND "Registration".status = 'CONFIRMED'
GROUP BY "Event".id
HAVING "Event"."spotsReserved" <> COALESCE(SUM("Registration"."spotsCount"), 0)
ORDER BY "Event".title, "Event".id;
