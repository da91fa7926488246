-- Forgets the trouble of a command that is settled.
DELETE FROM trouble WHERE event_id = ANY(:'event_ids'::uuid[]) AND command_id = :'command_id'::uuid
