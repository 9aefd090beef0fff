-- What goes when a full queue sheds: available jobs, the least urgent first, and of these the newest.

-- name: least_urgent
SELECT id FROM jobs WHERE state = 'available' AND queue = :queue ORDER BY priority DESC, id DESC LIMIT :surplus;

-- A job that was dead before keeps the arguments that it was first enqueued with, and its history.
-- name: shed
INSERT INTO dead_letters (id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions,
                          max_interruptions, timeout_ms, created_at, attempted_at, died_at, reason, fingerprint,
                          unique_key, tags, errors, blob)
SELECT j.id, j.kind, j.queue, j.priority, j.args, j.args, j.attempt, j.max_attempts, j.interruptions,
       j.max_interruptions, j.timeout_ms, j.created_at, j.attempted_at, :now, 'shed', :fingerprint,
       j.unique_key, j.tags,
       json_insert(coalesce(j.errors, '[]'), '$[#]',
           CASE WHEN json_valid(:error) THEN json(:error) ELSE json_quote(:error) END),
       j.blob
FROM jobs AS j WHERE j.id IN (SELECT value FROM json_each(:ids))
ON CONFLICT (id) DO UPDATE SET
    queue = excluded.queue, last_args = excluded.last_args, attempt = excluded.attempt,
    max_attempts = excluded.max_attempts, interruptions = excluded.interruptions, attempted_at = excluded.attempted_at,
    died_at = excluded.died_at, deaths = deaths + 1, reason = excluded.reason, fingerprint = excluded.fingerprint,
    errors = excluded.errors, resolution = NULL, resolved_at = NULL;

-- name: remove_shed
DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(:ids));
