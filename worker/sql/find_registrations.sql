-- The registrations of these ids, which differ, each with the place that it had first. OFFSET 0 and ORDER BY id LIMIT 1
-- are fences: rows are found by key, even by a plan that was made when the table was nearly empty.
SELECT id, seq,
       coalesce(original_seq, (SELECT seq FROM command
                               WHERE event_id = registration.event_id AND id = registration.command_id OFFSET 0),
                seq) AS original_seq,
       command_id, name, email, spots_count, status
FROM unnest(:'ids'::uuid[]) AS asked (asked_id)
CROSS JOIN LATERAL (
    SELECT * FROM registration WHERE event_id = :'event_id'::uuid AND id >= asked_id ORDER BY id LIMIT 1
) AS registration
WHERE id = asked_id
