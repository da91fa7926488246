-- Saves an event's settings and moves its counters, by the guard of the new capacity. After a decision that lowered
-- the capacity below the confirmed spots, `overbooked_from` is the capacity under which they were confirmed.
UPDATE event
SET slug = :'slug'::text,
    former_slugs = CASE WHEN slug = :'slug'::text THEN former_slugs
                        WHEN slug_released_at > clock_timestamp() - interval '10 s' THEN former_slugs || slug
                        ELSE ARRAY[slug] END,
    slug_released_at = CASE WHEN slug = :'slug'::text THEN slug_released_at ELSE clock_timestamp() END,
    title = :'title'::text,
    capacity = :'capacity'::integer,
    waitlist_enabled = :'waitlist_enabled'::boolean,
    waitlist_limit = :'waitlist_limit'::integer,
    promotion_policy = :'promotion_policy'::text,
    auto_promote = :'auto_promote'::boolean,
    max_spots_per_registration = :'max_spots_per_registration'::integer,
    opens_at = :'opens_at'::timestamptz,
    closes_at = :'closes_at'::timestamptz,
    promote_until = :'promote_until'::timestamptz,
    cancel_until = :'cancel_until'::timestamptz,
    paused = :'paused'::boolean,
    archived = :'archived'::boolean,
    deleted = :'deleted'::boolean,
    spots_reserved = spots_reserved + :'spots'::integer,
    waitlist_length = waitlist_length + :'waiting'::integer,
    overbooked_spots = least(
        CASE WHEN :'overbooked_from'::integer IS NULL THEN overbooked_spots END,
        greatest(spots_reserved + :'spots'::integer - :'capacity'::integer, 0)
    ),
    audit_seq = audit_seq + :'entries'::bigint,
    updated_at = now()
WHERE id = :'event_id'::uuid
  AND (:'spots'::integer <= 0  -- the guard
       OR spots_reserved + :'spots'::integer <= greatest(:'capacity'::integer, :'overbooked_from'::integer))
