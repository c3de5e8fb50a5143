"""PostgreSQL: connections, tables, row-level security and pagination."""
