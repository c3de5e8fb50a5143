"""Where the command `distildire` begins: Ctrl-C ends it without a traceback even while its modules are imported."""

from __future__ import annotations

import signal


def main() -> None:
    """Import the command and run it."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell may have told it to ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from deploy.cli import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
