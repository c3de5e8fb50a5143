"""The object store, and the circuit breaker that limits how long callers wait for it."""
