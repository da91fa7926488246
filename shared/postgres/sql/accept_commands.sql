-- Writes commands into the ledger in the order of the arrays. A command is left out if the ledger has its id or
-- its idempotency key already, and all are if the ledger's numbering has fallen behind this session's last
-- number; the number of those that were written shows if any was left out. A command that is there already
-- binds its key no second time: it may have been refused, and its key released. A statement that waits for one
-- key may not see that another of its commands is there by then, and bind that one's key; then it divides by zero,
-- so that nothing of it stays (decision 0077). A key that names a command is not written at all: the INSERT would
-- wait for the end of a transaction that releases it, and all commands with it (decision 0088). A key of the
-- spelling that an earlier version took as it came is looked for only. Keys are written in their own order, so
-- that two statements with the same keys cannot wait for each other.
WITH new AS MATERIALIZED (
    SELECT * FROM unnest(
        :'event_ids'::uuid[], :'ids'::uuid[], :'kinds'::text[], :'payloads'::jsonb[], :'actors'::text[],
        :'versions'::smallint[], :'idempotency_keys'::bytea[], :'former_keys'::bytea[], :'fingerprints'::bytea[]
    ) WITH ORDINALITY
        AS new (event_id, id, kind, payload, actor, version, idempotency_key, former_key, fingerprint, place)
    WHERE (SELECT last_value - (NOT is_called)::integer FROM command_seq_seq) >= :'last_number'::bigint
), keyed AS (
    INSERT INTO idempotency_key (event_id, key, command_id, fingerprint)
    SELECT event_id, idempotency_key, id, fingerprint FROM new
    WHERE idempotency_key IS NOT NULL
      AND NOT EXISTS (SELECT FROM command WHERE event_id = new.event_id AND id = new.id OFFSET 0)
      -- Among the indexes only the primary key has this order.
      AND new.idempotency_key IS DISTINCT FROM (
          SELECT key FROM idempotency_key
          WHERE event_id = new.event_id AND key >= new.idempotency_key ORDER BY key LIMIT 1
      )
      AND (former_key IS NULL OR former_key IS DISTINCT FROM (
          SELECT key FROM idempotency_key
          WHERE event_id = new.event_id AND key >= new.former_key ORDER BY key LIMIT 1
      ))
    ORDER BY event_id, idempotency_key
    ON CONFLICT DO NOTHING
    RETURNING command_id
), accepted AS (
    INSERT INTO command (event_id, id, kind, payload, actor, version)
    SELECT event_id, id, kind, payload, actor, version FROM new
    WHERE idempotency_key IS NULL OR id IN (SELECT command_id FROM keyed)
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING event_id, seq, id
), pending AS (
    INSERT INTO pending_command (event_id, seq, command_id) SELECT event_id, seq, id FROM accepted
    RETURNING seq
)
SELECT count(*), max(seq),
       1 / (NOT EXISTS (SELECT FROM keyed WHERE command_id NOT IN (SELECT id FROM accepted)))::integer
FROM pending
