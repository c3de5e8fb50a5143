-- Finds the newest job of each of the tenants that submitted last. No index has the jobs of all tenants in the order of
-- time, so each tenant's newest job is looked up.
SELECT job.tenant_id, job.id FROM tenants CROSS JOIN LATERAL (
    SELECT tenant_id, id, created_at FROM jobs WHERE tenant_id = tenants.id ORDER BY created_at DESC, id DESC LIMIT 1
) AS job
ORDER BY job.created_at DESC LIMIT :most
