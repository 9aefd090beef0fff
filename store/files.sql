-- Which files of the spool are still needed: those that a job or a dead letter names.

-- name: unneeded_files
SELECT value FROM json_each(:names) AS n
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE blob IS NOT NULL AND json_extract(blob, '$.spool') = n.value)
  AND NOT EXISTS (SELECT 1 FROM jobs WHERE result_blob IS NOT NULL AND json_extract(result_blob, '$.spool') = n.value)
  AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE blob IS NOT NULL AND json_extract(blob, '$.spool') = n.value);

-- name: result_files
SELECT json_extract(result_blob, '$.spool') FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND result_blob IS NOT NULL;

-- name: needed_files
SELECT json_extract(blob, '$.spool') FROM jobs WHERE blob IS NOT NULL AND json_extract(blob, '$.spool') IS NOT NULL
UNION SELECT json_extract(result_blob, '$.spool') FROM jobs WHERE result_blob IS NOT NULL
UNION SELECT json_extract(blob, '$.spool') FROM dead_letters
    WHERE blob IS NOT NULL AND json_extract(blob, '$.spool') IS NOT NULL;
