-- What outlasts a restart of the breakers, and the queue's own name.

-- name: save_breaker
INSERT INTO breakers (name, state, changed_at, changed_by, reason, until, break_ms)
VALUES (:name, :state, :changed_at, :changed_by, :reason, :until, :break_ms)
ON CONFLICT (name) DO UPDATE SET
    state = excluded.state, changed_at = excluded.changed_at, changed_by = excluded.changed_by,
    reason = excluded.reason, until = excluded.until, break_ms = excluded.break_ms;

-- The columns are those of SavedBreaker, in its order.
-- name: breakers
SELECT name, state, changed_at, changed_by, reason, until, break_ms FROM breakers ORDER BY name;

-- name: add_breaker_event
INSERT INTO breaker_events (name, at, was, now, reason, who) VALUES (:name, :at, :was, :now, :reason, :who);

-- name: forget_breaker_events
DELETE FROM breaker_events
WHERE name = :name
  AND id <= (SELECT id FROM breaker_events WHERE name = :name ORDER BY id DESC LIMIT 1 OFFSET :keep);

-- The columns are those of BreakerEvent, in its order.
-- name: breaker_events
SELECT name, at, was, now, reason, who
FROM (SELECT *, row_number() OVER (PARTITION BY name ORDER BY id DESC) AS number FROM breaker_events)
WHERE number <= :limit ORDER BY id DESC;

-- name: store_id
SELECT store_id FROM identity;
