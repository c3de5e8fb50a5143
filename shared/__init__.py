"""What the API and the workers must agree on: what a job is, where it is kept, and what may be done with it."""
