-- Deletes registrations.
DELETE FROM registration
USING unnest(:'event_ids'::uuid[], :'ids'::uuid[]) AS gone (event_id, id)
WHERE registration.event_id = gone.event_id AND registration.id = gone.id
