-- Gives registrations their new status and place, and keeps the place that they had first.
-- ORDER BY id LIMIT 1 is a fence: among the indexes only the primary key has this order, so each row is found by
-- its key, even by a plan that was made when the table was nearly empty.
UPDATE registration
SET status = new.status, seq = new.seq, updated_at = now(),
    original_seq = coalesce(registration.original_seq, new.original_seq)
FROM unnest(:'event_ids'::uuid[], :'ids'::uuid[], :'statuses'::text[], :'seqs'::bigint[],
            :'original_seqs'::bigint[])
    AS new (event_id, id, status, seq, original_seq)
CROSS JOIN LATERAL (
    SELECT ctid, id FROM registration WHERE event_id = new.event_id AND id >= new.id ORDER BY id LIMIT 1
) AS found
WHERE registration.ctid = found.ctid AND found.id = new.id
