-- Says whether another worker can be expected to take a job that this one could not judge.
SELECT EXISTS (
    SELECT FROM workers
    WHERE role = 'analysis' AND state = 'ready' AND model = :model AND id <> :worker AND heartbeat_at > now() - :fresh
      AND :policy = ANY (array_append(policies, ''))
)
