-- Saves a part of a batch: counters, new registrations, audit entries, outcomes. Returns how many counters
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
), settled AS (
    UPDATE command
    SET outcome = outcome_of.outcome, settled_at = now(), attempts = attempts + 1
    FROM unnest(:'settled_event_ids'::uuid[], :'settled_ids'::uuid[], :'settled_outcomes'::jsonb[])
        AS outcome_of (event_id, id, outcome)
    CROSS JOIN LATERAL (
        SELECT ctid FROM command WHERE event_id = outcome_of.event_id AND id = outcome_of.id OFFSET 0
    ) AS found
    WHERE command.ctid = found.ctid
      AND command.outcome IS NULL  -- a command is settled once
    RETURNING command.id
)
SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM settled)
