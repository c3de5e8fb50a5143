-- The condition that a row of `workers` is not the worker that asks, and has sent a heartbeat a moment ago.
role = 'analysis' AND id <> :worker AND heartbeat_at > now() - :fresh
