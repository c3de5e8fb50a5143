"""`python -m docs.reference`: rewrite the tables of all pages."""

from __future__ import annotations

import sys

from docs.reference.pages import pages, rewritten
from docs.reference.source import ROOT, SourceError


def main() -> None:
    """Rewrite what is stale, and say what was."""
    for page in pages():
        text = page.read_text()
        try:
            now = rewritten(text)
        except SourceError as error:
            sys.exit(str(error))
        if now != text:
            page.write_text(now)
            print(f"{page.relative_to(ROOT)}: rewritten")  # noqa: T201  # its output


main()
