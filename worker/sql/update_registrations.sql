-- Gives registrations their new status and place.
UPDATE registration
SET status = new.status, seq = new.seq, updated_at = now()
FROM unnest(:'event_ids'::uuid[], :'ids'::uuid[], :'statuses'::text[], :'seqs'::bigint[])
    AS new (event_id, id, status, seq)
WHERE registration.event_id = new.event_id AND registration.id = new.id
