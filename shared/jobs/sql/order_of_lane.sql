-- The order in which a lane's jobs wait. It names all columns of the index `jobs_lane`, also those that are equal in a
-- lane: to a role whose rows are guarded they do not seem to be.
tenant_id, priority, (attempt > 0), suspect, coalesce(jobs.model, ''), coalesce(jobs.policy, ''), created_at, id::text
