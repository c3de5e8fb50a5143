"""HTTP and nothing else: each route parses a request, makes one call into `shared`, and presents the outcome."""
