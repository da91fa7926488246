-- Writes commands into the ledger in the order of the arrays. A command is left out if the
-- ledger has its id or its idempotency key already; the row count shows if any was left out.
INSERT INTO command (event_id, id, kind, payload, actor, idempotency_key, fingerprint)
SELECT event_id, id, kind, payload, actor, idempotency_key, fingerprint
FROM unnest(
    :'event_ids'::uuid[], :'ids'::uuid[], :'kinds'::text[], :'payloads'::jsonb[], :'actors'::text[],
    :'idempotency_keys'::bytea[], :'fingerprints'::bytea[]
) WITH ORDINALITY AS new (event_id, id, kind, payload, actor, idempotency_key, fingerprint, place)
ORDER BY place
ON CONFLICT DO NOTHING
