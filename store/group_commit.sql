-- Due jobs, and claims. What a plain turn is: plain_turns.sql.

-- name: promote
UPDATE jobs SET state = 'available'
WHERE id IN (SELECT id FROM jobs WHERE state IN ('scheduled', 'retryable') AND scheduled_at <= :now
             ORDER BY scheduled_at LIMIT :limit)
RETURNING queue;

-- name: next_due
SELECT scheduled_at FROM jobs WHERE state IN ('scheduled', 'retryable') ORDER BY scheduled_at LIMIT 1;

-- What `slack` is: migrations/sqlite/0005_slack.sql.
-- name: claim
UPDATE jobs SET state = 'running', attempt = attempt + 1, attempted_at = :now, lease = :lease, slack = x'0000000000000000'
WHERE id IN (SELECT id FROM jobs WHERE state = 'available' AND queue = :queue ORDER BY priority, id LIMIT :limit);

-- All that the turn has claimed, in one row: a row at a time takes the GIL from the supervisor's loop for each. The
-- columns are those of ClaimedJob, in its order.
-- name: claimed
SELECT json_group_array(json_array(
    id, kind, args, attempt, queue, max_attempts, timeout_ms, interruptions, max_interruptions, priority,
    created_at, blob))
FROM jobs WHERE state = 'running' AND lease = :lease;
