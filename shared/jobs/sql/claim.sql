-- Takes the next jobs for a worker, `most` at most, and returns them with the number of jobs that it found.
--
-- It puts the first jobs of all lanes in one order. In this order, each job of a tenant raises the cost of the
-- tenant's next one.
--
-- SKIP LOCKED: workers that claim at the same moment get different jobs, and none waits. The statement locks only the
-- jobs that it takes. If it locked all that it looked at, other workers would find no jobs.
WITH {eligible}, turn AS MATERIALIZED (
    SELECT id, place FROM (
        SELECT id, place, bool_or(suspect) OVER (ORDER BY place) AS with_suspect FROM (
            SELECT id, suspect, row_number() OVER (ORDER BY rank DESC, running + before, created_at, id) AS place FROM (
                SELECT *, coalesce(sum(cost) OVER (
                    PARTITION BY owner ORDER BY rank DESC, created_at, id
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ), 0) AS before FROM head
            ) AS of_tenant
        ) AS of_all
    ) AS in_turn
    WHERE place = 1 OR NOT with_suspect
    ORDER BY place LIMIT :looked
), next AS (
    SELECT jobs.id, turn.place FROM turn JOIN jobs ON jobs.id = turn.id
    WHERE jobs.state || '' = 'queued'
    ORDER BY turn.place
    LIMIT :most FOR UPDATE OF jobs SKIP LOCKED
), taken AS (
    UPDATE jobs
    SET state = 'running', stage = 'fetching', attempt = attempt + 1, worker = :worker, alone = false,
        lease_until = now() + :lease, beat_at = now(), started_at = coalesce(started_at, now())
    FROM next WHERE jobs.id = next.id
    RETURNING next.place, jobs.id, tenant_id, attempt, suspect, source_key, source_sha256, deadline_at,
              model, stability, pictures, flagged_only, metadata AS client_metadata, client_ref, declared,
              deadline_seconds,
              coalesce(jobs.policy, (SELECT tenants.policy FROM tenants WHERE tenants.id = jobs.tenant_id)) AS policy
)
SELECT (SELECT count(*) FROM turn) AS found, taken.*
FROM (SELECT) AS one LEFT JOIN taken ON true ORDER BY place
