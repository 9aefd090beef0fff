-- A turn that only completes and claims is one statement: an INSERT of a row for each lease that outcomes name, and for
-- each claim. sqlite3 gives the GIL away in every statement, and the supervisor's loop may keep it for a
-- millisecond or more before the next one begins; a statement by itself is a transaction, too.
--
-- The view and its triggers are the connection's own; they stand in no file. `lease`: the one that the outcomes name,
-- or that the claimed jobs get; `ids` and `results`: as in complete and complete_with_results; `ended`: how many.

-- name: plain_turn_view
CREATE TEMP VIEW plain_turn AS SELECT 0 AS now, 0 AS lease, NULL AS ids, NULL AS results, 0 AS ended, NULL AS queue, 0 AS wanted;

-- name: plain_turn_complete
CREATE TEMP TRIGGER plain_turn_complete INSTEAD OF INSERT ON plain_turn WHEN NEW.ids IS NOT NULL BEGIN
    UPDATE jobs SET state = 'completed', finalized_at = NEW.now
    WHERE id IN (SELECT value FROM json_each(NEW.ids)) AND +lease = NEW.lease AND +state = 'running';
    SELECT RAISE(ROLLBACK, 'stale outcome') WHERE changes() <> NEW.ended;
END;

-- name: plain_turn_results
CREATE TEMP TRIGGER plain_turn_results INSTEAD OF INSERT ON plain_turn WHEN NEW.results IS NOT NULL BEGIN
    UPDATE jobs SET
        state = 'completed', finalized_at = NEW.now,
        result = CASE WHEN json_valid(o.value) THEN o.value ELSE json_quote(o.value) END
    FROM json_each(NEW.results) AS o
    WHERE jobs.id = CAST(o.key AS INTEGER) AND +jobs.lease = NEW.lease AND +jobs.state = 'running';
    SELECT RAISE(ROLLBACK, 'stale outcome') WHERE changes() <> NEW.ended;
END;

-- name: plain_turn_claim
CREATE TEMP TRIGGER plain_turn_claim INSTEAD OF INSERT ON plain_turn WHEN NEW.wanted > 0 BEGIN
    UPDATE jobs SET state = 'running', attempt = attempt + 1, attempted_at = NEW.now, lease = NEW.lease
    WHERE id IN (SELECT id FROM jobs WHERE state = 'available' AND queue = NEW.queue ORDER BY priority, id
                 LIMIT NEW.wanted);
END;

-- The claims, as an array of [queue, limit]; one more line for each lease that outcomes name.
-- name: plain_turn
INSERT INTO plain_turn (now, lease, ids, results, ended, queue, wanted)
SELECT ?, ?, NULL, NULL, 0, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?);

-- name: plain_turn_ended
UNION ALL SELECT ?, ?, ?, ?, ?, NULL, 0;
