"""The shapes of requests and answers under `/v1`."""
