-- Saves all that can be corrected of a registration, with its status and place.
-- ORDER BY id LIMIT 1 is a fence: among the indexes only the primary key has this order, so the row is found by
-- its key, even by a plan that was made when the table was nearly empty.
UPDATE registration
SET name = :'name'::text,
    email = :'email'::text,
    email_key = :'email_key'::text,
    spots_count = :'spots_count'::integer,
    status = :'status'::text,
    seq = :'seq'::bigint,
    command_id = :'command_id'::uuid,
    original_seq = :'original_seq'::bigint,
    updated_at = now()
FROM (
    SELECT ctid, id FROM registration
    WHERE event_id = :'event_id'::uuid AND id >= :'id'::uuid ORDER BY id LIMIT 1
) AS found
WHERE registration.ctid = found.ctid AND found.id = :'id'::uuid
