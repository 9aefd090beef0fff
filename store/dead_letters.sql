-- Dying, and what people decide about the dead.

-- A job that dies again keeps the arguments that it was first enqueued with, and its history.
-- name: bury
INSERT INTO dead_letters (id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions,
                          max_interruptions, timeout_ms, created_at, attempted_at, died_at, reason, fingerprint,
                          unique_key, tags, errors, blob)
SELECT j.id, j.kind, j.queue, j.priority, j.args, j.args, j.attempt, j.max_attempts, j.interruptions + o.interrupted,
       j.max_interruptions, j.timeout_ms, j.created_at, j.attempted_at, :now, o.reason, o.fingerprint,
       j.unique_key, j.tags,
       json_insert(coalesce(j.errors, '[]'), '$[#]',
           CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END),
       j.blob
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS reason, json_extract(value, '$[3]') AS error,
             json_extract(value, '$[4]') AS fingerprint, json_extract(value, '$[5]') AS interrupted
      FROM json_each(:outcomes)) AS o
JOIN jobs AS j ON j.id = o.id
WHERE +j.lease = o.lease AND +j.state = 'running'
ON CONFLICT (id) DO UPDATE SET
    queue = excluded.queue, last_args = excluded.last_args, attempt = excluded.attempt,
    max_attempts = excluded.max_attempts, interruptions = excluded.interruptions, attempted_at = excluded.attempted_at,
    died_at = excluded.died_at, deaths = deaths + 1, reason = excluded.reason, fingerprint = excluded.fingerprint,
    errors = excluded.errors, resolution = NULL, resolved_at = NULL;

-- name: remove_buried
DELETE FROM jobs
WHERE (id, lease) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:outcomes))
  AND +state = 'running'
RETURNING id;

-- Failures start anew. Of the interruptions at most one is left, so that a poison pill stays capped.
-- name: replay
INSERT INTO jobs (id, kind, queue, state, priority, args, attempt, max_attempts, interruptions, max_interruptions,
                  timeout_ms, created_at, scheduled_at, unique_key, tags, errors, blob)
SELECT d.id, d.kind, d.queue, 'available', d.priority,
       CASE WHEN :set_args IS NULL THEN d.last_args ELSE merge_args(d.last_args, :set_args) END,
       min(d.interruptions, d.max_interruptions - 1), d.max_attempts, min(d.interruptions, d.max_interruptions - 1),
       d.max_interruptions, d.timeout_ms, d.created_at, :now, d.unique_key, d.tags, d.errors, d.blob
FROM json_each(:ids) AS i JOIN dead_letters AS d ON d.id = i.value
WHERE d.resolution IS NULL
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL AND finalized_at IS NULL DO NOTHING
RETURNING id, queue;

-- name: resolve
UPDATE dead_letters SET
    resolution = :resolution, resolved_at = :now, history = json_insert(history, '$[#]', json(:entry))
WHERE id IN (SELECT value FROM json_each(:ids)) AND resolution IS NULL
RETURNING id;

-- name: resolutions
SELECT d.id, coalesce(d.resolution, 'dead') FROM json_each(:ids) AS i JOIN dead_letters AS d ON d.id = i.value;

-- name: dead_cursor
SELECT died_at FROM dead_letters WHERE id = :id;

-- The columns of both lists are those of DeadView, in its order.
-- name: get_dead
SELECT id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions, max_interruptions,
       created_at, died_at, deaths, reason, fingerprint, errors, history, timeout_ms, attempted_at, unique_key,
       tags, resolution, resolved_at, blob
FROM dead_letters WHERE id = :id;

-- name: list_dead_open
SELECT id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions, max_interruptions,
       created_at, died_at, deaths, reason, fingerprint, errors, history, timeout_ms, attempted_at, unique_key,
       tags, resolution, resolved_at, blob
FROM dead_letters
WHERE resolution IS NULL AND (died_at, id) < (:died_at, :id)
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
ORDER BY died_at DESC, id DESC LIMIT :limit;

-- name: list_dead_alike
SELECT id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions, max_interruptions,
       created_at, died_at, deaths, reason, fingerprint, errors, history, timeout_ms, attempted_at, unique_key,
       tags, resolution, resolved_at, blob
FROM dead_letters
WHERE resolution IS NULL AND fingerprint = :fingerprint AND (died_at, id) < (:died_at, :id)
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
ORDER BY died_at DESC, id DESC LIMIT :limit;

-- name: list_dead_all
SELECT id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions, max_interruptions,
       created_at, died_at, deaths, reason, fingerprint, errors, history, timeout_ms, attempted_at, unique_key,
       tags, resolution, resolved_at, blob
FROM dead_letters
WHERE (died_at, id) < (:died_at, :id)
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:fingerprint IS NULL OR fingerprint = :fingerprint)
ORDER BY died_at DESC, id DESC LIMIT :limit;
