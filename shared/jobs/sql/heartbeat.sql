-- Extends the leases of attempts that still own their jobs, and returns these attempts.
--
-- A statement that locks several jobs locks them in the order of their ids; otherwise two could deadlock. Each job is
-- found by its id only. With the state as a condition, PostgreSQL could choose an index of open jobs, and read the dead
-- entries of all jobs that were once open.
WITH owned AS (
    SELECT job.id, beat.stage
    FROM (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:stages AS text[]))
            AS beat(id, attempt, stage) ORDER BY id
    ) AS beat
    CROSS JOIN LATERAL (SELECT id, attempt, state FROM jobs WHERE jobs.id = beat.id FOR UPDATE) AS job
    WHERE job.attempt = beat.attempt AND job.state = 'running'
)
UPDATE jobs SET lease_until = now() + :lease, beat_at = now(), stage = owned.stage
FROM owned WHERE jobs.id = owned.id
RETURNING jobs.id, jobs.attempt
