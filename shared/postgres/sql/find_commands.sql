-- The ledger's commands with these ids or these idempotency keys.
SELECT command.event_id, command.id, command.idempotency_key, command.fingerprint
FROM unnest(:'event_ids'::uuid[], :'ids'::uuid[], :'idempotency_keys'::bytea[])
    AS asked (event_id, id, idempotency_key)
CROSS JOIN LATERAL (
    SELECT event_id, id, idempotency_key, fingerprint FROM command
    WHERE event_id = asked.event_id AND id = asked.id
    UNION ALL
    SELECT event_id, id, idempotency_key, fingerprint FROM command
    WHERE event_id = asked.event_id AND idempotency_key = asked.idempotency_key AND id <> asked.id
) AS command
