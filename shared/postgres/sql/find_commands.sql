-- For each of these commands, in this order: whether the ledger has its id, and the command that has its
-- idempotency key, in the spelling that an earlier version took as it came or as it is written now. OFFSET 0 and
-- LIMIT 1 are fences: each row is found by key, even by a plan that was made when the tables were nearly empty.
SELECT by_id.id IS NOT NULL AS accepted, coalesce(by_former.command_id, by_key.command_id),
       coalesce(by_former.fingerprint, by_key.fingerprint)
FROM unnest(:'event_ids'::uuid[], :'ids'::uuid[], :'idempotency_keys'::bytea[], :'former_keys'::bytea[])
    WITH ORDINALITY AS asked (event_id, id, idempotency_key, former_key, place)
LEFT JOIN LATERAL (
    SELECT id FROM command WHERE event_id = asked.event_id AND id = asked.id OFFSET 0
) AS by_id ON true
LEFT JOIN LATERAL (
    -- Among the indexes only the primary key has this order.
    SELECT key, command_id, fingerprint FROM idempotency_key
    WHERE event_id = asked.event_id AND key >= asked.idempotency_key ORDER BY key LIMIT 1
) AS by_key ON by_key.key = asked.idempotency_key
LEFT JOIN LATERAL (
    SELECT key, command_id, fingerprint FROM idempotency_key
    WHERE event_id = asked.event_id AND key >= asked.former_key ORDER BY key LIMIT 1
) AS by_former ON by_former.key = asked.former_key
ORDER BY place
