"""The seccomp filter of a decoding child: the kernel refuses all system calls that computing does not need.

The filter is written by hand, because the standard library has no interface for it (man 2 seccomp; linux/filter.h).
Even if a file takes a decoder over, the decoder cannot open a file or socket, signal or trace another process, or start
a program. A refused call fails with EPERM, so code that can do without it (a thread that sets its name) continues.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
#: Instructions: load a word of the call; compare it; test a bit of it; return a decision.
_LOAD, _EQUAL, _HAS, _ANSWER = 0x20, 0x15, 0x45, 0x06
#: Offsets in struct seccomp_data. Of an argument, the lower half (both machines are little-endian).
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_INSTRUCTION = struct.Struct("=HBBI")
_CLONE_THREAD = 0x00010000
_FIONBIO = 0x5421


@dataclass(frozen=True)
class _Calls:
    """The numbers of system calls on one kind of machine."""

    audit_arch: int
    free: tuple[int, ...]
    """Always allowed: memory, time, waiting, the open descriptors, the exit."""
    clone: int  # allowed for threads, which AVIF's decoder starts
    ioctl: int  # allowed to set a socket's timeout
    tgkill: int  # allowed on the process itself: for abort, and for the traceback of a crash
    clone3: int = 435  # answered "not there", so that the C library uses clone, whose flags a filter can read


_CALLS = {
    "x86_64": _Calls(
        audit_arch=0xC000003E,
        free=(
            *(0, 1, 3, 5, 7, 8),  # read, write, close, fstat, poll, lseek
            *(9, 10, 11, 12, 25, 28),  # mmap, mprotect, munmap, brk, mremap, madvise
            *(13, 14, 15, 131),  # rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack
            *(24, 39, 186, 202, 204),  # sched_yield, getpid, gettid, futex, sched_getaffinity
            *(44, 45, 51, 55),  # sendto, recvfrom, getsockname, getsockopt
            *(60, 231),  # exit, exit_group
            *(228, 230, 271),  # clock_gettime, clock_nanosleep, ppoll
            *(273, 318, 334),  # set_robust_list, getrandom, rseq
        ),
        clone=56,
        ioctl=16,
        tgkill=234,
    ),
    "aarch64": _Calls(
        audit_arch=0xC00000B7,
        free=(
            *(63, 64, 57, 80, 62),  # read, write, close, fstat, lseek
            *(222, 226, 215, 214, 216, 233),  # mmap, mprotect, munmap, brk, mremap, madvise
            *(134, 135, 139, 132),  # rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack
            *(124, 172, 178, 98, 123),  # sched_yield, getpid, gettid, futex, sched_getaffinity
            *(206, 207, 204, 209),  # sendto, recvfrom, getsockname, getsockopt
            *(93, 94),  # exit, exit_group
            *(113, 115, 73),  # clock_gettime, clock_nanosleep, ppoll
            *(99, 278, 293),  # set_robust_list, getrandom, rseq
        ),
        clone=220,
        ioctl=29,
        tgkill=131,
    ),
}
_libc = ctypes.CDLL(None, use_errno=True)


def is_supported() -> bool:
    """Return whether this machine and its kernel support the filter. The probe passes no filter, so it changes nothing.

    Machines other than those above, and kernels without seccomp, do not support it. Only resource limits apply there.
    """
    asked = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    return platform.machine() in _CALLS and asked == -1 and ctypes.get_errno() == errno.EFAULT


def install_filter() -> bool:
    """Install the filter in this process, for good; return whether that was possible."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    program = _program(calls, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    filters = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters, 0, 0) == 0)


def _program(calls: _Calls, pid: int) -> bytes:
    """Return the filter: the kernel runs it on every system call of this process."""
    return b"".join(
        [
            _load(_MACHINE),
            _step(_EQUAL, calls.audit_arch, over=1),
            _answer(_KILL),  # calls by another architecture's numbers
            _load(_NUMBER),
            *(_step(_EQUAL, number, otherwise=1) + _answer(_ALLOW) for number in calls.free),
            _if_argument(calls.clone, 0, _HAS, _CLONE_THREAD),
            _if_argument(calls.ioctl, 1, _EQUAL, _FIONBIO),
            _if_argument(calls.tgkill, 0, _EQUAL, pid),
            _step(_EQUAL, calls.clone3, otherwise=1) + _answer(_REFUSE | errno.ENOSYS),
            _answer(_REFUSE | errno.EPERM),
        ]
    )


def _if_argument(number: int, argument: int, test: int, value: int) -> bytes:
    """Allow call `number` where its argument passes the test."""
    return b"".join(
        [
            _step(_EQUAL, number, otherwise=4),
            _load(_ARGUMENTS + 8 * argument),
            _step(test, value, otherwise=1),
            _answer(_ALLOW),
            _answer(_REFUSE | errno.EPERM),
        ]
    )


def _load(offset: int) -> bytes:
    return _INSTRUCTION.pack(_LOAD, 0, 0, offset)


def _step(test: int, value: int, *, over: int = 0, otherwise: int = 0) -> bytes:
    """Skip the next `over` instructions if the test holds, else the next `otherwise`."""
    return _INSTRUCTION.pack(test, over, otherwise, value)


def _answer(what: int) -> bytes:
    return _INSTRUCTION.pack(_ANSWER, 0, 0, what)
