-- Erases what is personal of these registrations, and the payloads of these commands with the idempotency keys
-- under which they were asked for; a command that is pending keeps both. An erased payload is not empty, so that
-- `tidy` finds it. ORDER BY id LIMIT 1 and OFFSET 0 are fences: each row is found by its key, even by a plan that
-- was made when the tables were nearly empty.
WITH emptied AS (
    UPDATE command SET payload = '{"erased": true}'
    FROM unnest(:'command_ids'::uuid[]) AS asked (id)
    CROSS JOIN LATERAL (
        SELECT ctid, event_id, seq FROM command
        WHERE event_id = :'event_id'::uuid AND id = asked.id AND kind <> 'erase' OFFSET 0
    ) AS found
    WHERE command.ctid = found.ctid
      AND (SELECT command_id FROM pending_command
           WHERE event_id = found.event_id AND seq = found.seq) IS NULL
    RETURNING command.id
), forgotten AS (
    DELETE FROM idempotency_key
    USING emptied
    CROSS JOIN LATERAL (
        SELECT ctid FROM idempotency_key
        WHERE command_id = emptied.id AND (event_id = :'event_id'::uuid) IS TRUE OFFSET 0  -- see save_batch.sql
    ) AS found
    WHERE idempotency_key.ctid = found.ctid
)
UPDATE registration SET name = '', email = NULL, email_key = NULL, updated_at = now()
FROM unnest(:'registration_ids'::uuid[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT ctid, id FROM registration
    WHERE event_id = :'event_id'::uuid AND id >= asked.id ORDER BY id LIMIT 1
) AS found
WHERE registration.ctid = found.ctid AND found.id = asked.id
