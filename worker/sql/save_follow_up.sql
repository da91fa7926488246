-- Writes an event's follow-up into the ledger, and its id into the event.
WITH accepted AS (
    INSERT INTO command (event_id, id, kind, payload, actor, accepted_at)
    VALUES (:'event_id'::uuid, :'id'::uuid, 'promote_waitlist', '{}', 'system', :'accepted_at'::timestamptz)
    RETURNING event_id, seq, id
), pending AS (
    INSERT INTO pending_command (event_id, seq, command_id) SELECT event_id, seq, id FROM accepted
)
UPDATE event SET follow_up_id = :'id'::uuid WHERE id = :'event_id'::uuid
