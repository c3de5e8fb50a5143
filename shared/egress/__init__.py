"""Which URLs that tenants chose may be called: rules on URLs and addresses, without any network."""
