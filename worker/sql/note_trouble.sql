-- Notes that a command, or its whole event (then `command_id` is null), could not be applied.
INSERT INTO trouble (event_id, command_id, error)
VALUES (:'event_id'::uuid, :'command_id'::uuid, :'error'::text)
ON CONFLICT (event_id, command_id) DO UPDATE
SET error = excluded.error, tries = trouble.tries + 1, tried_at = now()
