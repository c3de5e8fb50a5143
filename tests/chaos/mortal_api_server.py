"""`python -P -m tests.chaos.mortal_api_server`: serve the mortal API as the product serves its own."""

from __future__ import annotations

import tests.chaos.deaths  # noqa: F401  # first: it remembers what the server takes out of the environment
from api.__main__ import serve

if __name__ == "__main__":
    serve("tests.chaos.mortal_api:app")
