-- Counts the jobs of a tenant that ended in the last `seconds`, `sample` at most, and returns how many seconds ago the
-- first of them ended. The two numbers give the rate.
SELECT count(*), extract(epoch FROM now() - min(finished_at)) FROM (
    SELECT finished_at FROM jobs
    WHERE tenant_id = :tenant AND finished_at > now() - make_interval(secs => :seconds)
    ORDER BY finished_at DESC LIMIT :sample
) AS last
