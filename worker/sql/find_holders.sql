-- The active registrations that hold these email addresses, each at its event. OFFSET 0 is a fence: each row is
-- found by key, even by a plan that was made when the table was nearly empty.
SELECT asked.event_id, asked.email_key, registration.email, registration.id
FROM unnest(:'event_ids'::uuid[], :'email_keys'::text[]) AS asked (event_id, email_key)
CROSS JOIN LATERAL (
    SELECT id, email FROM registration
    WHERE event_id = asked.event_id AND email_key = asked.email_key AND status <> 'CANCELLED' OFFSET 0
) AS registration
