-- Finds the jobs that a worker may take now: the part that `claim` and `anything_waits` have in common. It only reads.
-- Its result is `head`, the first jobs of each lane.
--
-- Waiting jobs are grouped in lanes. A lane holds a tenant's jobs of one priority, model and policy; jobs that were
-- begun before and suspects have lanes of their own. The tally says which lanes hold jobs and where each begins
-- (shared/jobs/tally.py), so the statement reads no row that has left the queue. Lanes are ordered by priority, then by
-- how much runs of their tenant, counted in images that the device classifies for it, then by age.
--
-- A suspect is taken as the only job, because it may kill one more worker. It is taken at once if another worker is
-- ready and has no suspect. Otherwise its last worker must have been silent for `while_others_start`, if other workers
-- are alive, or for `while_none_lives`, if none is. A suspect takes all slots of a worker, and counts as that many
-- images. A tenant has one suspect running at a time.
under_way AS MATERIALIZED (
    SELECT tenant_id, worker, suspect,
           CASE WHEN suspect THEN greatest((SELECT slots FROM workers WHERE workers.id = worker), 1)
                WHEN stability THEN :probe_passes ELSE 1 END AS cost
    FROM running_jobs
), others AS (
    SELECT policies, state = 'ready' AND NOT EXISTS (
        SELECT FROM under_way WHERE under_way.worker = workers.id AND under_way.suspect
    ) AS ready
    FROM workers
    WHERE {another_lives} AND state <> 'draining' AND (model IS NULL OR model = :model)
), grace AS (
    SELECT least(:lease, CASE WHEN bool_or(ready) THEN interval '0'
                              WHEN count(*) > 0 THEN :while_others_start ELSE :while_none_lives END) AS silence
    FROM others
), lane AS MATERIALIZED (
    SELECT owner, rank, begun, suspect, model, policy, at, item, running
    FROM (
        SELECT *, sum(cost) OVER tenant AS running, bool_or(suspect_runs) OVER tenant AS suspect_of_tenant_runs
        FROM (
            SELECT owner, rank, begun, suspect, model, policy, at, item, 0 AS cost, false AS suspect_runs
            FROM tally_waiting('jobs')
            UNION ALL
            SELECT tenant_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, cost, suspect FROM under_way
        ) AS each WINDOW tenant AS (PARTITION BY owner)
    ) AS of_tenant
    WHERE model IN ('', :model) AND NOT (suspect AND suspect_of_tenant_runs) AND (
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
        WHERE {of_lane} AND deadline_at > now()
          AND (suspect AND beat_at > now() - (SELECT silence FROM grace)) IS NOT TRUE
          AND (failed_on IS DISTINCT FROM :worker OR NOT EXISTS (
              SELECT FROM others
              WHERE ready AND coalesce(jobs.policy, (SELECT policy FROM tenants WHERE id = lane.owner), '')
                              = ANY (array_append(others.policies, ''))
          ))
        ORDER BY {order_of_lane}
        LIMIT (SELECT greatest(:most, ceil(CAST(:looked AS float) / greatest(count(*), 1)))::int FROM lane)
    ) AS job
)
