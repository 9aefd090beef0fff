-- What people ask for about jobs that do not run.

-- name: cancel
UPDATE jobs SET state = 'cancelled', finalized_at = :now, park_reason = NULL
WHERE id IN (SELECT value FROM json_each(:ids))
  AND (state IN ('scheduled', 'available', 'retryable', 'parked') OR (:abandoned AND state = 'running'))
RETURNING id;

-- A fresh budget, but for the interruptions: at most one is left, so that a poison pill stays capped.
-- OR IGNORE: a job whose unique key another one has by now stays as it is.
-- name: retry_now
UPDATE OR IGNORE jobs SET
    state = 'available', scheduled_at = :now, finalized_at = NULL, result = NULL, result_blob = NULL,
    interruptions = min(interruptions, max_interruptions - 1), attempt = min(interruptions, max_interruptions - 1)
WHERE id IN (SELECT value FROM json_each(:ids)) AND state IN ('scheduled', 'retryable', 'completed', 'cancelled')
RETURNING id, queue;

-- name: states
SELECT i.value, coalesce(j.state, CASE WHEN d.id IS NOT NULL THEN 'dead' END)
FROM json_each(:ids) AS i LEFT JOIN jobs AS j ON j.id = i.value LEFT JOIN dead_letters AS d ON d.id = i.value;
