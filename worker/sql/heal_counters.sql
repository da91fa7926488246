-- Sets an event's counters to the sums of its rows. Only this statement may raise the counter past the
-- capacity, because the rows exceed it already (decision 0024).
UPDATE event
SET spots_reserved = :'confirmed_spots'::integer,
    waitlist_length = :'waitlist_length'::integer,
    overbooked_spots = greatest(:'confirmed_spots'::integer - capacity, 0)
WHERE id = :'event_id'::uuid
