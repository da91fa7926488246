-- Saves all that can be corrected of a registration, with its status and place.
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
WHERE event_id = :'event_id'::uuid AND id = :'id'::uuid
