"""The only way by which URLs that tenants chose are called."""
