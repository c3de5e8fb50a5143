-- Finds the newest job of each of the tenants that submitted most recently. No index orders the jobs of all tenants by
-- time, so the statement looks up each tenant's newest job.
SELECT job.tenant_id, job.id FROM tenants CROSS JOIN LATERAL (
    SELECT tenant_id, id, created_at FROM jobs WHERE tenant_id = tenants.id ORDER BY created_at DESC, id DESC LIMIT 1
) AS job
ORDER BY job.created_at DESC LIMIT :most
