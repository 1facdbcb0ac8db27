"""A name server on loopback, for tests: what it knows is a dictionary, and it can be silent, slow, or fail.

async with name_server({("a.test", "A"): ["127.0.0.2"]}) as server:
    lookup = server.lookup()   # asks this server, and an empty /etc/hosts
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from carrier.core.lookup import Lookup

KINDS = {1: "A", 28: "AAAA", 33: "SRV", 5: "CNAME"}
NUMBERS = {name: number for number, name in KINDS.items()}


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".") if label) + b"\0"


class NameServer(asyncio.DatagramProtocol):
    """records: (name, kind) -> values. asked: what it was asked. silent: to everything, or to these names. code: of every answer.
    ttl: of every record. big: answers over UDP are cut. delay: seconds."""

    transport: asyncio.DatagramTransport

    def __init__(self, records: Mapping[tuple[str, str], list[Any]]) -> None:
        self.records = dict(records)
        self.asked: list[tuple[str, str]] = []
        self.silent: bool | set[str] = False
        self.code: int | None = None
        self.ttl = 60
        self.delay = 0.0
        self.big = False
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: Any) -> None:
        answer = self.answer(data, not self.big)
        if answer is not None:
            asyncio.get_running_loop().call_later(self.delay, self._send, answer, address)

    def _send(self, answer: bytes, address: Any) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(answer, address)

    def answer(self, data: bytes, whole: bool = True) -> bytes | None:
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name, (number,) = ".".join(labels).lower(), struct.unpack_from("!H", data, at + 1)
        kind = KINDS[number]
        self.asked.append((name, kind))
        if self.silent is True or (isinstance(self.silent, set) and name in self.silent):
            return None
        known = {owner for owner, _ in self.records}
        found = self.records.get((name, kind), [])
        body = b""
        count = 0
        owner = name
        while (alias := self.records.get((owner, "CNAME"))) is not None and kind != "CNAME":
            body += encoded(owner) + struct.pack("!HHIH", 5, 1, self.ttl, len(encoded(alias[0]))) + encoded(alias[0])
            count += 1
            owner = alias[0]
            found = self.records.get((owner, kind), [])
        for value in found if whole else ():
            raw = _written(kind, value)
            body += (b"\xc0\x0c" if owner == name else encoded(owner)) + struct.pack("!HHIH", number, 1, self.ttl, len(raw)) + raw
            count += 1
        code = self.code if self.code is not None else 0 if name in known else 3
        flags = 0x8180 | code | (0 if whole else 0x0200)
        return data[:2] + struct.pack("!5H", flags, 1, count if code == 0 else 0, 0, 0) + data[12 : at + 5] + (body if code == 0 else b"")

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = self.answer(await reader.readexactly(size))
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    def lookup(self, folder: Path, *more: str, hosts: str = "", servers: tuple[NameServer, ...] = ()) -> Lookup:
        """A look-up that asks this server, and these others; more: lines of resolv.conf."""
        lines = [f"nameserver 127.0.0.1:{server.port}" for server in (self, *servers)]
        (folder / "resolv.conf").write_text("\n".join([*lines, *more, ""]))
        (folder / "hosts").write_text(hosts)
        return Lookup(str(folder / "resolv.conf"), str(folder / "hosts"))


def _written(kind: str, value: Any) -> bytes:
    if kind == "A":
        return socket.inet_pton(socket.AF_INET, value)
    if kind == "AAAA":
        return socket.inet_pton(socket.AF_INET6, value)
    priority, weight, port, target = value
    return struct.pack("!3H", priority, weight, port) + encoded(target)


@contextlib.asynccontextmanager
async def name_server(records: Mapping[tuple[str, str], list[Any]] | None = None) -> AsyncIterator[NameServer]:
    """One that listens on a free port, UDP and TCP."""
    loop = asyncio.get_running_loop()
    while True:
        transport, found = await loop.create_datagram_endpoint(lambda: NameServer(records or {}), local_addr=("127.0.0.1", 0))
        found.port = transport.get_extra_info("sockname")[1]
        try:
            server = await asyncio.start_server(found.over_tcp, "127.0.0.1", found.port)
            break
        except OSError:  # somebody else has the port for TCP
            transport.close()
    try:
        yield found
    finally:
        transport.close()
        server.close()
