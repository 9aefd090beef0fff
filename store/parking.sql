-- Jobs that are put aside. All of it goes through jobs_parked alone, however many jobs are there.

-- name: parked_queues
WITH RECURSIVE hop (queue) AS (
    SELECT min(queue) FROM jobs WHERE state = 'parked' AND park_reason = :reason
    UNION ALL
    SELECT (SELECT min(queue) FROM jobs WHERE state = 'parked' AND park_reason = :reason AND queue > hop.queue) FROM hop
    WHERE hop.queue IS NOT NULL
)
SELECT queue FROM hop WHERE queue IS NOT NULL;

-- name: parked_reasons
WITH RECURSIVE hop (reason) AS (
    SELECT min(park_reason) FROM jobs WHERE state = 'parked' AND park_reason >= :prefix
    UNION ALL
    SELECT (SELECT min(park_reason) FROM jobs WHERE state = 'parked' AND park_reason > hop.reason) FROM hop
    WHERE hop.reason < :beyond
)
SELECT reason FROM hop WHERE reason < :beyond;

-- name: parked_counts
SELECT park_reason, count(*) FROM jobs
WHERE state = 'parked' AND park_reason >= :prefix AND park_reason < :beyond GROUP BY park_reason;

-- name: unpark
UPDATE jobs SET state = 'available', park_reason = NULL
WHERE id IN (SELECT id FROM jobs WHERE state = 'parked' AND park_reason = :reason AND queue = :queue
             ORDER BY priority, id LIMIT :limit);

-- The first in the line of one queue that comes after a place in it. Two steps, because SQLite takes no pair of columns
-- to an index when the row's own id is one of them.
-- name: next_parked
SELECT id, priority, queue FROM jobs WHERE id = coalesce(
    (SELECT id FROM jobs WHERE state = 'parked' AND park_reason = :reason AND queue = :queue
        AND priority = :priority AND id > :after ORDER BY id LIMIT 1),
    (SELECT id FROM jobs WHERE state = 'parked' AND park_reason = :reason AND queue = :queue
        AND priority > :priority ORDER BY priority, id LIMIT 1));

-- name: unpark_one
UPDATE jobs SET state = 'available', park_reason = NULL WHERE id = :id AND state = 'parked';
