-- Turns of a few jobs, a statement for each: see small_turns.py.

-- name: insert_one
INSERT INTO jobs (id, kind, queue, state, priority, args, max_attempts, max_interruptions, timeout_ms, scheduled_at,
                  unique_key, tags, blob, created_at, slack)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'000000000000000000000000000000000000');

-- name: complete_one
UPDATE jobs SET state = 'completed', finalized_at = :now, slack = x''
WHERE id = :id AND +lease = :lease AND +state = 'running';

-- name: complete_one_with_result
UPDATE jobs SET
    state = 'completed', finalized_at = :now, slack = x'',
    result = CASE WHEN json_valid(:result) THEN :result ELSE json_quote(:result) END
WHERE id = :id AND +lease = :lease AND +state = 'running';
