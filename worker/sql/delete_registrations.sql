-- Deletes these registrations.
-- ORDER BY id LIMIT 1 is a fence: among the indexes only the primary key has this order, so each row is found by
-- its key, even by a plan that was made when the table was nearly empty.
DELETE FROM registration
USING unnest(:'event_ids'::uuid[], :'ids'::uuid[]) AS gone (event_id, id)
CROSS JOIN LATERAL (
    SELECT ctid, id FROM registration WHERE event_id = gone.event_id AND id >= gone.id ORDER BY id LIMIT 1
) AS found
WHERE registration.ctid = found.ctid AND found.id = gone.id
