-- The active registrations that hold these email addresses, each at its event.
SELECT registration.event_id, registration.email_key, registration.id
FROM unnest(:'event_ids'::uuid[], :'email_keys'::text[]) AS asked (event_id, email_key)
JOIN registration ON registration.event_id = asked.event_id
 AND registration.email_key = asked.email_key AND registration.status <> 'CANCELLED'
