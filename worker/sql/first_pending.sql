-- The event's first pending command in ledger order, without those that are left out, or one command alone.
SELECT command_id, seq FROM pending_command
WHERE event_id = :'event_id'::uuid AND command_id <> ALL(:'left_out'::uuid[])
  AND (:'alone'::uuid IS NULL OR command_id = :'alone'::uuid)
ORDER BY seq LIMIT 1
