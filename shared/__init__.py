"""Code that the API and the workers share: what a job is, how it is stored, and the operations on it."""
