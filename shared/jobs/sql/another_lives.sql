-- The condition that a row of `workers` is another worker than the one that asks, and was heard of a moment ago.
role = 'analysis' AND id <> :worker AND heartbeat_at > now() - :fresh
