-- Whether a command other than a change of the event is in the ledger, and which of these slugs another event has,
-- or gave up so lately that a process may still take it for that event's.
SELECT EXISTS (SELECT FROM command WHERE event_id = :'event_id'::uuid AND kind <> 'change_event') AS fixed,
       ARRAY(SELECT slug FROM unnest(:'slugs'::text[]) AS asked (slug)
             WHERE EXISTS (SELECT FROM event WHERE event.slug = asked.slug AND id <> :'event_id'::uuid)
                OR EXISTS (SELECT FROM event
                           WHERE former_slug = asked.slug AND id <> :'event_id'::uuid
                             AND slug_released_at > clock_timestamp() - make_interval(secs => :'held_seconds'::float8))
       ) AS taken
