-- Takes the next jobs for a worker, `most` at most, and returns them with the number of those that it found.
--
-- Waiting jobs lie in lanes. A lane holds a tenant's jobs of one priority, model and policy; jobs that were begun
-- before and suspects have lanes of their own. The tally says which lanes hold jobs and where each begins
-- (shared/jobs/tally.py), so the statement reads no row that has left the queue. Lanes are ordered by priority, then by
-- how much runs of their tenant, counted in images that the device judges for it, then by age. The first jobs of as
-- many lanes as may be needed are put in one order, in which each counts for its tenant's next.
--
-- SKIP LOCKED: workers that look at the same moment get different jobs, and none waits. The statement locks only what
-- it takes: a lock on all that it looked at would hide those jobs from other workers, which would find nothing to do.
--
-- A suspect is taken alone, because it may cost one more worker. It is taken at once where another worker is ready and
-- has no suspect. Where others live but cannot go on yet, or where none lives, its last worker must have been silent
-- for so long that this is how it stays. A suspect takes all slots of a worker, and counts as that many; a tenant has
-- one under way at a time.
WITH carried AS MATERIALIZED (
    SELECT tenant_id, worker, suspect,
           CASE WHEN suspect THEN greatest((SELECT slots FROM workers WHERE workers.id = worker), 1)
                WHEN stability THEN :probe_passes ELSE 1 END AS cost
    FROM running_jobs
), others AS (
    SELECT policies, state = 'ready' AND NOT EXISTS (
        SELECT FROM carried WHERE carried.worker = workers.id AND carried.suspect
    ) AS ready
    FROM workers
    WHERE role = 'analysis' AND state <> 'draining' AND (model IS NULL OR model = :model)
      AND id <> :worker AND heartbeat_at > now() - :fresh
), patience AS (
    SELECT least(:lease, CASE WHEN bool_or(ready) THEN interval '0'
                              WHEN count(*) > 0 THEN :while_others_start ELSE :while_none_lives END) AS silence
    FROM others
), lane AS MATERIALIZED (
    SELECT owner, rank, begun, suspect, model, policy, at, item, running
    FROM (
        SELECT *, sum(cost) OVER tenant AS running, bool_or(carried) OVER tenant AS suspected
        FROM (
            SELECT owner, rank, begun, suspect, model, policy, at, item, 0 AS cost, false AS carried
            FROM tally_waiting('jobs')
            UNION ALL
            SELECT tenant_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, cost, suspect FROM carried
        ) AS each WINDOW tenant AS (PARTITION BY owner)
    ) AS of_tenant
    WHERE model IN ('', :model) AND NOT (suspect AND suspected) AND (
        policy = ANY (CAST(:policies AS text[])) OR policy = '' AND owner NOT IN (
            SELECT id FROM tenants WHERE policy IS NOT NULL AND policy <> ALL (CAST(:policies AS text[]))
        )
    )
    ORDER BY rank DESC, running, at
    LIMIT :looked
), head AS (
    SELECT lane.owner, lane.rank, lane.running, lane.suspect, job.id, job.created_at, job.cost
    FROM lane CROSS JOIN LATERAL (
        SELECT id, created_at, CASE WHEN stability THEN :probe_passes ELSE 1 END AS cost FROM jobs
        WHERE state = 'queued' AND tenant_id = lane.owner AND priority = lane.rank
          AND (attempt > 0) = lane.begun AND suspect = lane.suspect
          AND coalesce(jobs.model, '') = lane.model AND coalesce(jobs.policy, '') = lane.policy
          AND (created_at, id::text) >= (lane.at, lane.item::text) AND deadline_at > now()
          AND (suspect AND beat_at > now() - (SELECT silence FROM patience)) IS NOT TRUE
          AND (failed_on IS DISTINCT FROM :worker OR NOT EXISTS (
              SELECT FROM others
              WHERE ready AND coalesce(jobs.policy, (SELECT policy FROM tenants WHERE id = lane.owner), '')
                              = ANY (array_append(others.policies, ''))
          ))
        ORDER BY tenant_id, priority, (attempt > 0), suspect,  -- as the index: to a role these do not seem to be equal
                 coalesce(jobs.model, ''), coalesce(jobs.policy, ''), created_at, id::text
        LIMIT (SELECT greatest(:most, ceil(CAST(:looked AS float) / greatest(count(*), 1)))::int FROM lane)
    ) AS job
), turn AS MATERIALIZED (
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
              model, stability, pictures, metadata AS client_metadata,
              coalesce(jobs.policy, (SELECT tenants.policy FROM tenants WHERE tenants.id = jobs.tenant_id)) AS policy
)
SELECT (SELECT count(*) FROM turn) AS found, taken.*
FROM (SELECT) AS one LEFT JOIN taken ON true ORDER BY place
