"""URLs that may reach nothing (tests/data/egress_forms.toml), and a listener at every address that they might reach."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from shared.egress.ip_ranges import IPAddress

_FILE = Path(__file__).parents[1] / "data/egress_forms.toml"


@dataclass(frozen=True)
class Form:
    """One URL with `{port}` in it, and what is to become of it."""

    group: str
    url: str
    refusal: str
    registration: str
    answers: tuple[str, ...] | None = None
    """The addresses of its name; None where its host is none of the test's names."""

    def at(self, port: int) -> str:
        return self.url.replace("{port}", str(port))


def _read() -> tuple[list[Form], Mapping[str, Any]]:
    groups = tomllib.loads(_FILE.read_text())
    redirects = groups.pop("redirects")
    forms = []
    for name, group in groups.items():
        form = partial(Form, name, refusal=group["refusal"], registration=group["registration"])
        forms += [form(url=url) for url in group.get("urls", [])]
        forms += [form(url=url, answers=tuple(found)) for url, found in group.get("answers", {}).items()]
    return forms, redirects


FORMS, REDIRECTS = _read()


@dataclass
class Names:
    """A resolver: knows some names, and how often each was asked for. The last answer stays."""

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int) -> list[IPAddress]:
        self.asked.append(host)
        found = self.answers.get(host)
        if not found:
            raise OSError(f"{host} is not known")
        return [ip_address(text) for text in (found.pop(0) if len(found) > 1 else found[0])]


class _Ends(NamedTuple):
    """What tells a connection from all others: one port of a caller may serve several at once."""

    address: str
    port: int
    callers_port: int


class AllAddresses:
    """Listens on every address of this machine, and notes which of them was connected to."""

    def __init__(self) -> None:
        first = socket.create_server(("0.0.0.0", 0), backlog=64)
        self.port: int = first.getsockname()[1]
        self._listeners = [first]
        # And on the ports of http and https, where these are free.
        for family, host, port in ((socket.AF_INET6, "::", self.port), *_WELL_KNOWN):
            with contextlib.suppress(OSError):  # no IPv6 here, or another's port
                self._listeners.append(socket.create_server((host, port), family=family, backlog=64))
        self._accepted: list[_Ends] = []
        self._threads = [
            threading.Thread(target=self._accept, args=(listener,), daemon=True) for listener in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> list[str]:
        """Return the addresses that were connected to since the last call, those included that are under way.

        A connection of our own to each listener tells when all before it have been counted.
        """
        own = {self._knock(listener) for listener in self._listeners}
        deadline = time.monotonic() + 10
        while not own <= {*self._accepted}:
            assert time.monotonic() < deadline, "a listener does not listen"
            time.sleep(0.005)
        accepted, self._accepted = self._accepted, []
        return [each.address for each in accepted if each not in own]

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, caller = listener.accept()
                with connection:
                    address, port = connection.getsockname()[:2]
                    self._accepted.append(_Ends(address, port, caller[1]))

    @staticmethod
    def _knock(listener: socket.socket) -> _Ends:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
        with socket.create_connection((host, listener.getsockname()[1]), timeout=10) as connection:
            address, port = connection.getpeername()[:2]
            return _Ends(address, port, connection.getsockname()[1])


_WELL_KNOWN = tuple(
    (family, host, port)
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
    for port in (80, 443)
)


class ConnectLog:
    """Every connection that Python code of this process begins, by the interpreter's own audit events."""

    def __init__(self) -> None:
        self.addresses: list[tuple[Any, ...]] = []
        self._noting = False
        sys.addaudithook(self._note)  # for good: no hook can be taken away

    @contextlib.contextmanager
    def noting(self, *thread_names: str) -> Iterator[list[tuple[Any, ...]]]:
        """Note what threads begin whose names begin so."""
        self.addresses, self._names, self._noting = [], thread_names, True
        try:
            yield self.addresses
        finally:
            self._noting = False

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and self._noting and threading.current_thread().name.startswith(self._names):
            self.addresses.append(arguments[1])
