-- What people look at, on the read-only connection.

-- Hops from queue to queue through jobs_available, however many jobs are in each.
-- name: available_queues
WITH RECURSIVE hop (queue) AS (
    SELECT min(queue) FROM jobs WHERE state = 'available'
    UNION ALL
    SELECT (SELECT min(queue) FROM jobs WHERE state = 'available' AND queue > hop.queue) FROM hop
    WHERE hop.queue IS NOT NULL
)
SELECT queue FROM hop WHERE queue IS NOT NULL;

-- Two steps, because SQLite takes no pair of columns to an index when the row's own id is one of them.
-- name: ahead
SELECT count(*) FROM (
    SELECT 1 FROM jobs AS job CROSS JOIN jobs AS other
    WHERE job.id = :id AND +job.state = 'available'
      AND other.state = 'available' AND other.queue = job.queue AND other.priority < job.priority
    UNION ALL
    SELECT 1 FROM jobs AS job CROSS JOIN jobs AS other
    WHERE job.id = :id AND +job.state = 'available'
      AND other.state = 'available' AND other.queue = job.queue AND other.priority = job.priority AND other.id < job.id
    LIMIT :limit
);

-- Each part goes through a partial index that covers it.
-- name: counts
SELECT 'available', count(*) FROM jobs WHERE state = 'available'
UNION ALL SELECT 'running', count(*) FROM jobs WHERE state = 'running'
UNION ALL SELECT 'parked', count(*) FROM jobs WHERE state = 'parked'
UNION ALL SELECT state, count(*) FROM jobs WHERE state IN ('scheduled', 'retryable') GROUP BY state
UNION ALL SELECT state, count(*) FROM jobs WHERE finalized_at IS NOT NULL GROUP BY state
UNION ALL SELECT 'dead', count(*) FROM dead_letters WHERE resolution IS NULL;

-- name: queue_counts
SELECT queue, 'available', count(*) FROM jobs WHERE state = 'available' GROUP BY queue
UNION ALL SELECT queue, 'running', count(*) FROM jobs WHERE state = 'running' GROUP BY queue
UNION ALL SELECT queue, 'parked', count(*) FROM jobs WHERE state = 'parked' GROUP BY queue
UNION ALL SELECT queue, state, count(*) FROM jobs WHERE state IN ('scheduled', 'retryable') GROUP BY queue, state
UNION ALL SELECT queue, state, count(*) FROM jobs WHERE finalized_at IS NOT NULL GROUP BY queue, state;

-- name: queue_settings
SELECT name, paused_at, paused_by FROM queues;

-- The columns here and in the lists are those of JobView, in its order.
-- name: get
SELECT id, kind, queue, state, priority, args, attempt, max_attempts, interruptions, max_interruptions, created_at,
       scheduled_at, timeout_ms, attempted_at, finalized_at, park_reason, unique_key, tags, errors, result, blob,
       result_blob
FROM jobs WHERE id = :id;

-- The jobs with these ids.
-- name: list_these
SELECT id, kind, queue, state, priority, args, attempt, max_attempts, interruptions, max_interruptions, created_at,
       scheduled_at, timeout_ms, attempted_at, finalized_at, park_reason, unique_key, tags, errors, result, blob,
       result_blob
FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id DESC;

-- The newest ones that fit, from the end of the table.
-- name: newest
SELECT id FROM jobs
WHERE id < :before AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit;

-- States that few jobs are in: through their partial index, whatever lies around them in the table. A plus before id
-- keeps the planner from walking the table backwards instead.
-- name: newest_available
SELECT id FROM jobs
WHERE state = 'available' AND +id < :before
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag))
ORDER BY +id DESC LIMIT :limit;

-- name: newest_running
SELECT id FROM jobs
WHERE state = 'running' AND +id < :before
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag))
ORDER BY +id DESC LIMIT :limit;

-- name: newest_parked
SELECT id FROM jobs
WHERE state = 'parked' AND +id < :before
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag))
ORDER BY +id DESC LIMIT :limit;

-- name: newest_due
SELECT id FROM jobs
WHERE state IN ('scheduled', 'retryable') AND +id < :before
  AND state IN (SELECT value FROM json_each(:states))
  AND (:queue IS NULL OR queue = :queue) AND (:kind IS NULL OR kind = :kind)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(jobs.tags) WHERE value = :tag))
ORDER BY +id DESC LIMIT :limit;
