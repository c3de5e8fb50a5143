"""Commands for whoever runs the service: keys, tenants, jobs, egress, the schema, the object store, the live view."""
