-- The events among these that have pending commands, one JSON text each, with their first commands in ledger
-- order: at most `share` of one event and `commands_max` in all. Locks the events' rows; an event that another
-- session holds is left out (SKIP LOCKED). The events' commands are taken in rotation, so that many
-- commands of one event do not keep the commands of the others out of the batch. Without pending commands nothing is locked.
-- The later statements of the transaction may take `statement_ms`, and wait for a row `lock_ms`. A payload and a time
-- are texts here: one that cannot be read must not make the others unreadable. Nor must a command without
-- its row, as a repair by hand may leave it: it has no kind, and so it is unreadable, too.
SELECT json_build_object(
    'id', event.id,
    'auditSeq', event.audit_seq,
    'lastHash', encode(audit_entry.hash, 'hex'),
    'now', now(),
    'spotsReserved', event.spots_reserved,
    'waitlistLength', event.waitlist_length,
    'followUp', CASE WHEN event.follow_up_id IS NOT NULL AND (
        SELECT command_id FROM outcome WHERE event_id = event.id AND command_id = event.follow_up_id
    ) IS NULL THEN event.follow_up_id END,
    'settings', json_build_object(
        'slug', event.slug,
        'title', event.title,
        'capacity', event.capacity,
        'waitlistEnabled', event.waitlist_enabled,
        'waitlistLimit', event.waitlist_limit,
        'promotionPolicy', event.promotion_policy,
        'autoPromote', event.auto_promote,
        'maxSpotsPerRegistration', event.max_spots_per_registration,
        'opensAt', event.opens_at,
        'closesAt', event.closes_at,
        'promoteUntil', event.promote_until,
        'cancelUntil', event.cancel_until,
        'paused', event.paused,
        'archived', event.archived,
        'deleted', event.deleted
    ),
    'pending', pending.commands
)::text
FROM (
    SELECT taken.event_id,
           json_agg(json_build_array(
               command_id, seq, coalesce(version, 0), coalesce(kind, ''), coalesce(payload::text, ''),
               coalesce(actor, ''), coalesce(accepted_at::text, '')
           ) ORDER BY seq) AS commands
    FROM (
        SELECT asked.event_id, first.*, row_number() OVER (PARTITION BY asked.event_id ORDER BY seq) AS turn
        FROM unnest(:'event_ids'::uuid[]) AS asked (event_id)
        CROSS JOIN LATERAL (
            SELECT command_id, seq FROM (
                SELECT command_id, seq FROM pending_command
                WHERE event_id = asked.event_id AND seq >= :'first_seq'::bigint
                ORDER BY seq LIMIT :'share'::bigint + cardinality(:'left_out'::uuid[])
            ) AS earliest
            WHERE command_id <> ALL(:'left_out'::uuid[])
            ORDER BY seq LIMIT :'share'::bigint
        ) AS first
        ORDER BY turn, seq LIMIT :'commands_max'::bigint
    ) AS taken
    LEFT JOIN LATERAL (
        SELECT version, kind, payload, actor, accepted_at FROM command
        WHERE event_id = taken.event_id AND id = taken.command_id OFFSET 0
    ) AS command ON true
    GROUP BY taken.event_id
) AS pending
CROSS JOIN LATERAL (SELECT * FROM event WHERE id = pending.event_id FOR UPDATE SKIP LOCKED) AS event
LEFT JOIN LATERAL (
    -- OFFSET 0 is a fence: each entry is found by key, even by a plan that was made when the table was nearly empty.
    SELECT hash FROM audit_entry WHERE event_id = event.id AND number = event.audit_seq OFFSET 0
) AS audit_entry ON true
CROSS JOIN (
    SELECT set_config('statement_timeout', :'statement_ms'::text, true),
           set_config('lock_timeout', :'lock_ms'::text, true)
) AS patience
