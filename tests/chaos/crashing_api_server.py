"""`python -P -m tests.chaos.crashing_api_server`: serve the crashing API as the product serves its own."""

from __future__ import annotations

import tests.chaos.crash_points  # noqa: F401  # first: it remembers what the server takes out of the environment
from api.__main__ import serve

if __name__ == "__main__":
    serve("tests.chaos.crashing_api:app")
