-- Saves a part of a batch: counters, new registrations, audit entries, outcomes; releases the idempotency keys
-- of commands that were refused or failed. Returns how many counters
-- moved and how many commands were settled; the writer compares both with what it sent. OFFSET 0 is a fence:
-- each row is found by key, even by a plan that was made when the tables were nearly empty.
WITH moved AS (
    UPDATE event
    SET spots_reserved = spots_reserved + delta.spots,
        waitlist_length = waitlist_length + delta.waiting,
        overbooked_spots = least(overbooked_spots, greatest(spots_reserved + delta.spots - capacity, 0)),
        audit_seq = audit_seq + delta.entries,
        updated_at = now()
    FROM unnest(
        :'moved_event_ids'::uuid[], :'moved_spots'::integer[], :'moved_waiting'::integer[],
        :'moved_entries'::bigint[]
    ) AS delta (event_id, spots, waiting, entries)
    CROSS JOIN LATERAL (SELECT ctid FROM event WHERE id = delta.event_id OFFSET 0) AS found
    WHERE event.ctid = found.ctid
      AND (delta.spots <= 0 OR spots_reserved + delta.spots <= capacity)  -- the guard (decision 0016)
    RETURNING event.id
), entered AS (
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT * FROM unnest(
        :'entered_event_ids'::uuid[], :'entered_ids'::uuid[], :'entered_seqs'::bigint[],
        :'entered_command_ids'::uuid[], :'entered_names'::text[], :'entered_emails'::text[],
        :'entered_email_keys'::text[], :'entered_spots_counts'::integer[], :'entered_statuses'::text[]
    )
), noted AS (
    INSERT INTO audit_entry (event_id, number, hash, command_id, kind, actor, reason, registration_id,
                             from_status, to_status, before_after, spots_delta, spots_reserved, at)
    SELECT *, now() FROM unnest(
        :'noted_event_ids'::uuid[], :'noted_numbers'::bigint[], :'noted_hashes'::bytea[],
        :'noted_command_ids'::uuid[], :'noted_kinds'::text[], :'noted_actors'::text[],
        :'noted_reasons'::text[], :'noted_registration_ids'::uuid[], :'noted_from_statuses'::text[],
        :'noted_to_statuses'::text[], :'noted_before_afters'::jsonb[], :'noted_spots_deltas'::integer[],
        :'noted_spots_reserved'::integer[]
    )
), told AS (
    INSERT INTO outcome (event_id, command_id, body, settled_at)
    SELECT *, now() FROM unnest(:'settled_event_ids'::uuid[], :'settled_ids'::uuid[], :'settled_outcomes'::jsonb[])
    ON CONFLICT DO NOTHING  -- a command is settled once
    RETURNING command_id
), settled AS (
    DELETE FROM pending_command
    USING unnest(:'settled_event_ids'::uuid[], :'settled_seqs'::bigint[]) AS done (event_id, seq)
    CROSS JOIN LATERAL (
        SELECT ctid FROM pending_command WHERE event_id = done.event_id AND seq = done.seq OFFSET 0
    ) AS found
    WHERE pending_command.ctid = found.ctid
    RETURNING pending_command.seq
), released AS (
    DELETE FROM idempotency_key
    USING unnest(:'released_event_ids'::uuid[], :'released_ids'::uuid[]) AS refused (event_id, id)
    CROSS JOIN LATERAL (
        -- IS TRUE: the primary key begins with the event, and no index may seem to do instead of the command's.
        SELECT ctid FROM idempotency_key
        WHERE command_id = refused.id AND (event_id = refused.event_id) IS TRUE OFFSET 0
    ) AS found
    WHERE idempotency_key.ctid = found.ctid
)
SELECT (SELECT count(*) FROM moved), least((SELECT count(*) FROM told), (SELECT count(*) FROM settled))
