-- Payloads and results that are files: a row holds where the file is, how large, and its digest; never its bytes.
-- See Blob in perdure/wire/data.py for what the JSON says. `spool` is a name in the spool folder: the file lives as long
-- as a row names it.

ALTER TABLE jobs ADD COLUMN blob TEXT CHECK (blob IS NULL OR json_valid(blob));
ALTER TABLE jobs ADD COLUMN result_blob TEXT
    CHECK (result_blob IS NULL OR (state = 'completed' AND result IS NULL AND json_valid(result_blob)));
ALTER TABLE dead_letters ADD COLUMN blob TEXT CHECK (blob IS NULL OR json_valid(blob));

-- Whether a file of the spool is still needed. Jobs without files are in none of these.
CREATE INDEX jobs_blob ON jobs (json_extract(blob, '$.spool')) WHERE blob IS NOT NULL;
CREATE INDEX jobs_result_blob ON jobs (json_extract(result_blob, '$.spool')) WHERE result_blob IS NOT NULL;
CREATE INDEX dead_letters_blob ON dead_letters (json_extract(blob, '$.spool')) WHERE blob IS NOT NULL;
