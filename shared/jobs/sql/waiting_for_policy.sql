-- Finds jobs that have waited for `waited` for a worker with their policy: the one that they name, or else their
-- tenant's.
SELECT job.id FROM tally_waiting('jobs') AS lane JOIN tenants ON tenants.id = lane.owner
CROSS JOIN LATERAL (
    SELECT id FROM jobs
    WHERE state = 'queued' AND tenant_id = lane.owner AND priority = lane.rank
      AND (attempt > 0) = lane.begun AND suspect = lane.suspect
      AND coalesce(jobs.model, '') = lane.model AND coalesce(jobs.policy, '') = lane.policy
      AND (created_at, id::text) >= (lane.at, lane.item::text) AND created_at < now() - :waited
    ORDER BY tenant_id, priority, (attempt > 0), suspect, coalesce(jobs.model, ''), coalesce(jobs.policy, ''),
             created_at, id::text
    LIMIT :most
) AS job
WHERE lane.model = :model AND coalesce(nullif(lane.policy, ''), tenants.policy) = :policy
LIMIT :most
