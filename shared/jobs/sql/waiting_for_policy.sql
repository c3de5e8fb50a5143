-- Finds jobs that have waited at least `waited` for a worker with their policy: the policy that the job names, or, if
-- it names none, its tenant's.
SELECT job.id FROM tally_waiting('jobs') AS lane JOIN tenants ON tenants.id = lane.owner
CROSS JOIN LATERAL (
    SELECT id FROM jobs
    WHERE {of_lane} AND created_at < now() - :waited
    ORDER BY {order_of_lane}
    LIMIT :most
) AS job
WHERE lane.model = :model AND coalesce(nullif(lane.policy, ''), tenants.policy) = :policy
LIMIT :most
