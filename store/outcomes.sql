-- The outcomes of a turn. Each names the lease that it was claimed under, and is void when that is not held any more.
-- A plus before a column keeps the planner from jobs_running: the id is the shortest way to the row.

-- name: complete
UPDATE jobs SET state = 'completed', finalized_at = :now, slack = x''
WHERE id IN (SELECT value FROM json_each(:ids)) AND +lease = :lease AND +state = 'running';

-- `outcomes` is an object from id to result. One row of json_each has both, so nothing is extracted for each job.
-- name: complete_with_results
UPDATE jobs SET
    state = 'completed', finalized_at = :now, slack = x'',
    result = CASE WHEN json_valid(o.value) THEN o.value ELSE json_quote(o.value) END
FROM json_each(:outcomes) AS o
WHERE jobs.id = CAST(o.key AS INTEGER) AND +jobs.lease = :lease AND +jobs.state = 'running';

-- The result is a file in the spool.
-- name: complete_with_blobs
UPDATE jobs SET state = 'completed', finalized_at = :now, result_blob = o.value
FROM json_each(:outcomes) AS o
WHERE jobs.id = CAST(o.key AS INTEGER) AND +jobs.lease = :lease AND +jobs.state = 'running';

-- name: held
SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND +lease = :lease AND +state = 'running';

-- name: retry_later
UPDATE jobs SET
    state = 'retryable', scheduled_at = o.scheduled_at,
    errors = json_insert(coalesce(jobs.errors, '[]'), '$[#]',
        CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END)
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS scheduled_at, json_extract(value, '$[3]') AS error
      FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
  AND jobs.attempt - jobs.interruptions < jobs.max_attempts
RETURNING id;

-- Charged to nothing, so there may be very many: from 20 on, the last error takes the place of the one before.
-- name: postpone
UPDATE jobs SET
    state = 'retryable', attempt = attempt - 1, scheduled_at = o.scheduled_at,
    errors = CASE WHEN jobs.errors IS NOT NULL AND json_array_length(jobs.errors) >= 20
        THEN json_replace(jobs.errors, '$[#-1]',
            CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END)
        ELSE json_insert(coalesce(jobs.errors, '[]'), '$[#]',
            CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END) END
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS scheduled_at, json_extract(value, '$[3]') AS error
      FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
RETURNING id;

-- name: interrupt
UPDATE jobs SET
    state = 'available', interruptions = interruptions + 1,
    errors = json_insert(coalesce(jobs.errors, '[]'), '$[#]',
        CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END)
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS error FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
  AND jobs.interruptions + 1 < jobs.max_interruptions
RETURNING id, queue;

-- name: release
UPDATE jobs SET state = 'available', attempt = attempt - 1
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
RETURNING id, queue;

-- name: park
UPDATE jobs SET state = 'parked', attempt = attempt - 1, park_reason = o.reason
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS reason FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
RETURNING id;

-- name: cancel_claimed
UPDATE jobs SET state = 'cancelled', attempt = attempt - 1, finalized_at = :now
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
RETURNING id;

-- name: stop
UPDATE jobs SET
    state = 'cancelled', finalized_at = :now,
    errors = json_insert(coalesce(jobs.errors, '[]'), '$[#]',
        CASE WHEN json_valid(o.error) THEN json(o.error) ELSE json_quote(o.error) END)
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS lease,
             json_extract(value, '$[2]') AS error FROM json_each(:outcomes)) AS o
WHERE jobs.id = o.id AND +jobs.lease = o.lease AND +jobs.state = 'running'
RETURNING id;
