-- The sums of an event's rows, and the counter after its last audit entry.
SELECT coalesce(sum(spots_count) FILTER (WHERE status = 'CONFIRMED'), 0) AS confirmed_spots,
       count(*) FILTER (WHERE status = 'WAITLIST') AS waitlist_length,
       coalesce((SELECT spots_reserved FROM audit_entry WHERE event_id = :'event_id'::uuid
                 ORDER BY number DESC LIMIT 1), 0) AS audited_spots
FROM registration
WHERE event_id = :'event_id'::uuid
