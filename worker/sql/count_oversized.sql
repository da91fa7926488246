-- The numbers of waiting parties that are larger than the capacity, by event and size: of each event at most
-- `parties_max` parties, the largest first.
SELECT asked.event_id, large.spots_count, count(*)
FROM unnest(:'event_ids'::uuid[], :'capacities'::integer[], :'parties_max'::bigint[])
    AS asked (event_id, capacity, parties_max)
CROSS JOIN LATERAL (
    SELECT spots_count FROM registration
    WHERE event_id = asked.event_id AND status = 'WAITLIST' AND spots_count > asked.capacity
    ORDER BY spots_count DESC LIMIT asked.parties_max
) AS large
GROUP BY asked.event_id, large.spots_count
