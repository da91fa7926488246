-- Events that have pending commands, in the order of their ids: the events behind `after`, some of them more than
-- once. The last row's `more` is true if there may be more events behind it.
-- Reads pages of 20 pending commands, and the next page begins behind the last event of the page: an event with
-- very many pending commands costs a page, and very many events with one command each cost a twentieth of one.
-- At most 200 pages a call: between 200 and 4,000 events.
WITH RECURSIVE page AS (
    SELECT 1 AS number, array(
        SELECT event_id FROM pending_command WHERE event_id > :'after'::uuid
        ORDER BY event_id LIMIT 20
    ) AS event_ids
    UNION ALL
    SELECT number + 1, array(
        SELECT event_id FROM pending_command WHERE event_id > page.event_ids[20]
        ORDER BY event_id LIMIT 20
    )
    FROM page WHERE page.event_ids[20] IS NOT NULL AND number < 200
)
SELECT unnest(event_ids) AS event_id, number = 200 AND event_ids[20] IS NOT NULL AS more FROM page ORDER BY number
