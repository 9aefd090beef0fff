-- How full queues are: only through indexes that lead past the jobs of other queues, and no further than asked for.

-- name: waiting
WITH RECURSIVE hop (reason) AS (
    SELECT min(park_reason) FROM jobs WHERE state = 'parked'
    UNION ALL
    SELECT (SELECT min(park_reason) FROM jobs WHERE state = 'parked' AND park_reason > hop.reason) FROM hop
    WHERE hop.reason IS NOT NULL
)
SELECT count(*) FROM (
    SELECT 1 FROM jobs WHERE state = 'available' AND queue = :queue
    UNION ALL
    SELECT 1 FROM jobs WHERE state IN ('scheduled', 'retryable') AND queue = :queue
    UNION ALL
    SELECT 1 FROM hop CROSS JOIN jobs WHERE state = 'parked' AND park_reason = hop.reason AND queue = :queue
    LIMIT :limit
);

-- The first ones of each priority are the oldest, but for those that came back to their place after a failure or a wait.
-- name: oldest_available
WITH RECURSIVE level (priority) AS (
    SELECT min(priority) FROM jobs WHERE state = 'available' AND queue = :queue
    UNION ALL
    SELECT (SELECT min(priority) FROM jobs WHERE state = 'available' AND queue = :queue AND priority > level.priority)
    FROM level WHERE level.priority IS NOT NULL
)
SELECT min(first.scheduled_at) FROM level CROSS JOIN jobs AS first
WHERE first.id IN (SELECT id FROM jobs WHERE state = 'available' AND queue = :queue AND priority = level.priority
                   ORDER BY id LIMIT :first);

-- name: keys_held
SELECT jobs.kind, jobs.unique_key
FROM json_each(:keys) AS k JOIN jobs
  ON jobs.kind = json_extract(k.value, '$[0]') AND jobs.unique_key = json_extract(k.value, '$[1]')
 AND jobs.finalized_at IS NULL;
