"""PostgreSQL: connections, tables, which rows a tenant may see, and pages of them."""
