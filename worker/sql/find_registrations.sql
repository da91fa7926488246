-- The registrations of these ids.
SELECT id, seq, command_id, name, email, spots_count, status
FROM registration
WHERE event_id = :'event_id'::uuid AND id = ANY(:'ids'::uuid[])
