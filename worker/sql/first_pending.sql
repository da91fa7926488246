-- The event's first pending command in ledger order that is not left out.
SELECT command_id, seq FROM (
    SELECT command_id, seq FROM pending_command
    WHERE event_id = :'event_id'::uuid ORDER BY seq LIMIT 1 + cardinality(:'left_out'::uuid[])
) AS earliest
WHERE command_id <> ALL(:'left_out'::uuid[])
ORDER BY seq LIMIT 1
