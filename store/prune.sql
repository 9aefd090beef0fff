-- Retention: oldest first, through jobs_finalized.

-- name: prune_old
DELETE FROM jobs
WHERE id IN (SELECT id FROM jobs WHERE finalized_at IS NOT NULL AND finalized_at < :before
             ORDER BY finalized_at LIMIT :limit)
RETURNING id, json_extract(blob, '$.spool'), json_extract(result_blob, '$.spool');

-- The newest job that is one too many.
-- name: surplus_from
SELECT finalized_at, id FROM jobs WHERE finalized_at IS NOT NULL
ORDER BY finalized_at DESC, id DESC LIMIT 1 OFFSET :keep;

-- name: prune_surplus
DELETE FROM jobs
WHERE id IN (SELECT id FROM jobs WHERE finalized_at IS NOT NULL AND (finalized_at, id) <= (:finalized_at, :id)
             ORDER BY finalized_at, id LIMIT :limit)
RETURNING id, json_extract(blob, '$.spool'), json_extract(result_blob, '$.spool');

-- A letter stays while its job has another life: it holds the arguments that the job was first enqueued with.
-- name: prune_letters
DELETE FROM dead_letters
WHERE id IN (SELECT id FROM dead_letters AS d WHERE resolution IS NOT NULL AND resolved_at < :before
               AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = d.id)
             ORDER BY resolved_at LIMIT :limit)
RETURNING id, json_extract(blob, '$.spool');
