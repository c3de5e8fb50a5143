-- Finds the policies of waiting jobs that no ready worker has, although a ready worker serves their model.
WITH ready AS (
    SELECT model, policies FROM workers
    WHERE role = 'analysis' AND state = 'ready' AND heartbeat_at > now() - :counted_on
), wanted AS (
    SELECT DISTINCT lane.model, coalesce(nullif(lane.policy, ''), tenants.policy) AS policy
    FROM tally_waiting('jobs') AS lane JOIN tenants ON tenants.id = lane.owner
)
SELECT model, policy FROM wanted
WHERE policy IS NOT NULL
  AND EXISTS (SELECT FROM ready WHERE wanted.model IN ('', ready.model))
  AND NOT EXISTS (SELECT FROM ready WHERE wanted.model IN ('', ready.model) AND wanted.policy = ANY (policies))
