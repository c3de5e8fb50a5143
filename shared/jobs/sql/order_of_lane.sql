-- The order in which a lane's jobs wait. It names all columns of the index `jobs_lane`, even those that are equal
-- within a lane: under row-level security, PostgreSQL does not know that they are equal.
tenant_id, priority, (attempt > 0), suspect, coalesce(jobs.model, ''), coalesce(jobs.policy, ''), created_at, id::text
