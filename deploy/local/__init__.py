"""The stack on one machine: PostgreSQL, Valkey and an S3 server from pip packages, and the product's processes."""
