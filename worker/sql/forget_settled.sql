-- Takes commands that have an outcome off an event's pending commands. No owner leaves such a command behind, but
-- a repair by hand may. OFFSET 0 is a fence: each outcome is found by key.
DELETE FROM pending_command
WHERE event_id = :'event_id'::uuid AND (
    SELECT command_id FROM outcome
    WHERE event_id = pending_command.event_id AND command_id = pending_command.command_id OFFSET 0
) IS NOT NULL
