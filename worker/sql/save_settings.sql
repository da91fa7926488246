-- Saves an event's settings and moves its counters, by the guard of the new capacity.
UPDATE event
SET title = :'title'::text,
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
    spots_reserved = spots_reserved + :'spots'::integer,
    waitlist_length = waitlist_length + :'waiting'::integer,
    overbooked_spots =
        least(overbooked_spots, greatest(spots_reserved + :'spots'::integer - :'capacity'::integer, 0)),
    audit_seq = audit_seq + :'entries'::bigint,
    updated_at = now()
WHERE id = :'event_id'::uuid
  AND (:'spots'::integer <= 0 OR spots_reserved + :'spots'::integer <= :'capacity'::integer)  -- the guard
