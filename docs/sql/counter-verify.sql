-- Every event whose counter differs from its confirmed registrations. No row: all is in sync.

SELECT event.id,
       event.title,
       event.spots_reserved AS counter,
       COALESCE(SUM(registration.spots_count), 0) AS actual,
       event.spots_reserved - COALESCE(SUM(registration.spots_count), 0) AS difference
FROM event
LEFT JOIN registration ON registration.event_id = event.id AND registration.status = 'CONFIRMED'
GROUP BY event.id
HAVING event.spots_reserved <> COALESCE(SUM(registration.spots_count), 0)
ORDER BY event.title, event.id;
