-- The event's first pending command in ledger order that is not left out.
SELECT id FROM command
WHERE event_id = :'event_id'::uuid AND settled_at IS NULL AND id <> ALL(:'left_out'::uuid[])
ORDER BY seq LIMIT 1
