-- Starts of the daemon, recovery, and what the daemon leaves on record for others: kinds and paused queues.

-- name: last_run
SELECT boot_id, stopped_at FROM runs ORDER BY id DESC LIMIT 1;

-- name: begin_run
INSERT INTO runs (pid, boot_id, started_at) VALUES (:pid, :boot_id, :now);

-- name: end_run
UPDATE runs SET stopped_at = :now WHERE id = :id;

-- Of the runs long ago only the ids matter, and these are never used twice.
-- name: forget_runs
DELETE FROM runs WHERE id <= :id - :keep;

-- name: recover_stop
UPDATE jobs SET
    state = 'cancelled', finalized_at = :now,
    errors = json_insert(coalesce(errors, '[]'), '$[#]', json_object('attempt', attempt, 'at', :now,
        'type', 'JobCancelled', 'message', :message))
WHERE state = 'running'
  AND (id, attempt) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:unwanted));

-- name: recover_bury
INSERT INTO dead_letters (id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions,
                          max_interruptions, timeout_ms, created_at, attempted_at, died_at, reason, fingerprint,
                          unique_key, tags, errors, blob)
SELECT id, kind, queue, priority, args, args, attempt, max_attempts, interruptions + 1,
       max_interruptions, timeout_ms, created_at, attempted_at, :now, 'interruptions', :fingerprint,
       unique_key, tags,
       json_insert(coalesce(errors, '[]'), '$[#]', json_object('attempt', attempt, 'at', :now,
           'type', :error_type, 'message', :message, 'retryable', json('true'))),
       blob
FROM jobs
WHERE state = 'running' AND interruptions + 1 >= max_interruptions
  AND (:executing IS NULL
       OR (id, attempt) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:executing)))
ON CONFLICT (id) DO UPDATE SET
    queue = excluded.queue, last_args = excluded.last_args, attempt = excluded.attempt,
    max_attempts = excluded.max_attempts, interruptions = excluded.interruptions, attempted_at = excluded.attempted_at,
    died_at = excluded.died_at, deaths = deaths + 1, reason = excluded.reason, fingerprint = excluded.fingerprint,
    errors = excluded.errors, resolution = NULL, resolved_at = NULL;

-- name: recover_remove_buried
DELETE FROM jobs
WHERE state = 'running' AND interruptions + 1 >= max_interruptions
  AND (:executing IS NULL
       OR (id, attempt) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:executing)));

-- name: recover_interrupt
UPDATE jobs SET
    state = 'available', interruptions = interruptions + 1,
    errors = json_insert(coalesce(errors, '[]'), '$[#]', json_object('attempt', attempt, 'at', :now,
        'type', :error_type, 'message', :message, 'retryable', json('true')))
WHERE state = 'running'
  AND (:executing IS NULL
       OR (id, attempt) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:executing)));

-- name: recover_release
UPDATE jobs SET state = 'available', attempt = attempt - 1 WHERE state = 'running';

-- name: forget_kinds
DELETE FROM kinds;

-- name: save_kinds
INSERT INTO kinds (name, spec, loaded_at)
SELECT json_extract(value, '$.name'), value, :now FROM json_each(:kinds);

-- name: kinds
SELECT spec FROM kinds ORDER BY name;

-- name: pause_queue
INSERT INTO queues (name, paused_at, paused_by) VALUES (:queue, :now, :who)
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by
WHERE queues.paused_at IS NULL;

-- name: resume_queue
DELETE FROM queues WHERE name = :queue;

-- name: paused_queues
SELECT name FROM queues WHERE paused_at IS NOT NULL ORDER BY name;
