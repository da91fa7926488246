-- Whether a command other than a change of the event is in the ledger, and which of these slugs another event has,
-- or gave up so lately that a process may still send commands there. OFFSET 0 is a fence: each row is found by key,
-- even by a plan that was made when the tables were nearly empty.
SELECT EXISTS (SELECT FROM command WHERE event_id = :'event_id'::uuid AND kind <> 'change_event') AS fixed,
       ARRAY(
           SELECT asked.slug FROM unnest(:'slugs'::text[]) AS asked (slug)
           LEFT JOIN LATERAL (SELECT id FROM event WHERE event.slug = asked.slug OFFSET 0) AS holder ON true
           LEFT JOIN LATERAL (
               SELECT id FROM event
               WHERE slug_released_at > now() - make_interval(secs => :'held_seconds'::float8)
                 AND asked.slug = ANY(former_slugs) AND id <> :'event_id'::uuid
               LIMIT 1
           ) AS former ON true
           WHERE holder.id <> :'event_id'::uuid OR former.id IS NOT NULL
       ) AS taken
