-- Says whether another worker can be expected to take a job that this one could not classify.
SELECT EXISTS (
    SELECT FROM workers
    WHERE {another_lives} AND state = 'ready' AND model = :model
      AND :policy = ANY (array_append(policies, ''))
)
