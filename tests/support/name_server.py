"""A name server of our own, which may change its mind: enough of DNS (RFC 1035) to answer for A and AAAA."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

_PORT = 53
_A, _IN, _NO_SUCH_NAME = 1, 1, 3
#: An answer of one A record, without its data: a pointer to the question's name, type, class, no time to live, length.
_RECORD = struct.Struct(">HHHIH")
_POINTER = 0xC00C


@dataclass
class NameServer:
    """Answers of each name, in turn; the last one stays. Each answer is some IPv4 addresses."""

    answers: dict[str, list[Sequence[str]]]
    asked: list[str] = field(default_factory=list)
    """The names whose IPv4 addresses were asked for, in order."""

    def reply(self, query: bytes) -> bytes:
        """Answer one query, with a time to live of none."""
        labels, place = [], 12
        while length := query[place]:
            labels.append(query[place + 1 : place + 1 + length].decode())
            place += 1 + length
        name, kind = ".".join(labels).lower(), struct.unpack_from(">H", query, place + 1)[0]
        found: Sequence[str] = ()
        if kind == _A:
            self.asked.append(name)
            turns = self.answers.get(name, [()])
            found = turns.pop(0) if len(turns) > 1 else turns[0]
        code = 0 if name in self.answers else _NO_SUCH_NAME
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        records = (_RECORD.pack(_POINTER, _A, _IN, 0, 4) + IPv4Address(text).packed for text in found)
        return head + query[12 : place + 5] + b"".join(records)


@contextlib.contextmanager
def answering(answers: dict[str, list[Sequence[str]]]) -> Iterator[NameServer]:
    """Answer for whatever server /etc/resolv.conf names: every address must be this machine's own."""
    server = NameServer(answers)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as door:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        door.bind(("::", _PORT))
        thread = threading.Thread(target=_serve, args=(door, server), daemon=True)
        thread.start()
        yield server


def _serve(door: socket.socket, server: NameServer) -> None:
    with contextlib.suppress(OSError):
        while True:
            query, control, _, caller = door.recvmsg(512, socket.CMSG_SPACE(20))
            # Told where the query came to, the system answers from there: resolvers ignore other senders.
            door.sendmsg([server.reply(query)], control, 0, caller)
