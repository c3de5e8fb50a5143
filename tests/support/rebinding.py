"""Calls names that change their mind, with the system's resolver, where every address answers; prints what was reached.

To be run by tests/support/every_address.py. One JSON document: for each name the guard's code, the addresses that were
reached and how often the name was asked for; under `naive` what a client reaches that looks up, judges, and looks up
again.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from typing import Any

from shared.egress.url_policy import EgressError
from tests.support.egress_forms import AllAddresses
from tests.support.name_server import NameServer, answering
from worker.egress.http_client import Egress

PUBLIC, INSIDE = "93.184.215.14", "127.0.0.1"
NAMES: dict[str, list[Sequence[str]]] = {
    "naive.test": [(PUBLIC,), (INSIDE,)],
    "rebinding.test": [(PUBLIC,), (INSIDE,)],
    "metadata.test": [(PUBLIC,), ("169.254.169.254",)],
    "inside.test": [(INSIDE,), (PUBLIC,)],
    "mixed.test": [(PUBLIC, INSIDE)],
    "mixed-turned.test": [(INSIDE, PUBLIC)],
}


def _call(name: str, all_addresses: AllAddresses, server: NameServer) -> dict[str, Any]:
    all_addresses.take()
    server.asked.clear()
    try:
        Egress().post(f"https://{name}:{all_addresses.port}/", b"{}", {}, 5)
        code = None
    except EgressError as error:
        code = str(error.code)
    return {"code": code, "reached": all_addresses.take(), "asked": len(server.asked)}


def _naive(all_addresses: AllAddresses) -> list[str]:
    """Look up and judge, then have the client look up again: what the guard does not do."""
    socket.getaddrinfo("naive.test", all_addresses.port)
    socket.create_connection(("naive.test", all_addresses.port), timeout=5).close()
    return all_addresses.take()


def main() -> None:
    """Call each name once."""
    all_addresses = AllAddresses()
    with answering(NAMES) as server:
        naive = _naive(all_addresses)
        guarded = {name: _call(name, all_addresses, server) for name in NAMES if name != "naive.test"}
    sys.stdout.write(json.dumps({"naive": naive} | guarded))


if __name__ == "__main__":
    main()
