"""Runs a program so that it ends with its parent: `launcher.py SIGNAL PARENT PROGRAM [ARGUMENT…]`.

The kernel sends SIGNAL when the thread that started the process ends, even by kill -9. That setting does not
survive `unshare` or a change of user, so it is made here, last, in the process that then becomes the program. Only
the standard library's core is imported: this runs as `python -I -S` once for each process of the stack.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(death_signal: int, parent: int, command: list[str]) -> None:
    """Replace this process by `command`, which gets `death_signal` once `parent` has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # a background job of a shell begins with SIGINT ignored
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the setting was made
        sys.exit(f"parent {parent} has ended; {command[0]} is not started")
    os.execvp(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
