-- The head of the waitlist, as far as decisions can reach: hops from party size to party size along an index, up
-- to the capacity, and takes of each size as many registrations as could be promoted into `freed` spots or be
-- among those that leave, the last one that is promoted, and the next head. ORDER BY spots_count LIMIT 1 is a fence: for
-- min() a plan that was made when the table was nearly empty may read the whole waitlist. BETWEEN with ORDER BY
-- spots_count, seq is one as well: only the index by size has that order, where = would let PostgreSQL drop the
-- size from it, and read the waitlist by seq.
WITH RECURSIVE size AS (
    (SELECT spots_count AS spots FROM registration
     WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST' AND spots_count <= :'capacity'::integer
     ORDER BY spots_count LIMIT 1)
    UNION ALL
    SELECT (SELECT spots_count FROM registration
            WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST'
              AND spots_count > size.spots AND spots_count <= :'capacity'::integer
            ORDER BY spots_count LIMIT 1)
    FROM size WHERE size.spots IS NOT NULL
)
SELECT waiter.*
FROM size
LEFT JOIN unnest(:'leaving_sizes'::integer[], :'leaving_parties'::integer[]) AS leaving (spots, parties)
    ON leaving.spots = size.spots
CROSS JOIN LATERAL (
    SELECT id, seq, NULL::bigint AS original_seq, command_id, name, email, spots_count, status FROM registration
    WHERE event_id = :'event_id'::uuid AND status = 'WAITLIST'
      AND spots_count BETWEEN size.spots AND size.spots
    ORDER BY spots_count, seq LIMIT :'freed'::bigint / size.spots + coalesce(leaving.parties, 0) + 2
) AS waiter
WHERE size.spots IS NOT NULL
