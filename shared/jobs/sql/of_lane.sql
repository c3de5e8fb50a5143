-- The condition that a row of `jobs` waits in `lane`. It begins at the place where, by the tally, the lane begins.
state = 'queued' AND tenant_id = lane.owner AND priority = lane.rank
AND (attempt > 0) = lane.begun AND suspect = lane.suspect
AND coalesce(jobs.model, '') = lane.model AND coalesce(jobs.policy, '') = lane.policy
AND (created_at, id::text) >= (lane.at, lane.item::text)
