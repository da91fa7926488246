-- Forgets the trouble of a command that is settled, or of an event (then `command_id` is null).
DELETE FROM trouble
WHERE event_id = ANY(:'event_ids'::uuid[]) AND command_id IS NOT DISTINCT FROM :'command_id'::uuid
