-- The head of the waitlist, as far as decisions can reach: hops from party size to party size along an index,
-- and takes of each size as many registrations as could be promoted into `freed` spots, or be among those
-- `leaving`, and one more, the next head.
WITH RECURSIVE size AS (
    SELECT min(spots_count) AS spots FROM registration
    WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST'
    UNION ALL
    SELECT (SELECT min(spots_count) FROM registration
            WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST' AND spots_count > size.spots)
    FROM size WHERE size.spots IS NOT NULL
)
SELECT waiter.*
FROM size
CROSS JOIN LATERAL (
    SELECT id, seq, command_id, name, email, spots_count, status FROM registration
    WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST' AND spots_count = size.spots
    ORDER BY seq LIMIT :'freed'::bigint / size.spots + :'leaving'::bigint + 1
) AS waiter
WHERE size.spots IS NOT NULL
