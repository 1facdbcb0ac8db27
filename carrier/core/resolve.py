"""Names of endpoints to addresses: asynchronous, remembered for a few seconds, asked again after that.

A literal address costs nothing. An answer is kept for `ttl` seconds; when asking again fails, the last answer serves for
`stale` seconds more, because a name server that hiccups must not take a service down. Concurrent questions share one look-up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from carrier.errors import Error

Address = tuple[socket.AddressFamily, Any]
"""An address family and a socket address of that family."""

CAP = 4096


def literal(host: str, port: int) -> Address | None:
    """The address of a literal IPv4 or IPv6 host (with or without brackets, with or without a zone), or None for a name."""
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if ip.version == 4:
        return socket.AF_INET, (host, port)
    try:
        scope = socket.if_nametoindex(ip.scope_id) if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id else 0
    except OSError:  # no such interface: as good as a name that nobody knows
        return None
    return socket.AF_INET6, (host.partition("%")[0], port, 0, scope)


def is_here(host: str) -> bool:
    """Does a literal address mean this machine, whichever it is: loopback, or no address at all (connect(2) takes it for loopback)?"""
    try:
        ip = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback or (mapped or ip).is_unspecified


class Resolver:
    """Looks endpoint names up. ttl, stale: seconds."""

    def __init__(self, ttl: float = 5.0, stale: float = 300.0) -> None:
        self.ttl = ttl
        self.stale = stale
        self.known: dict[str, tuple[float, float, list[tuple[socket.AddressFamily, str]]]] = {}  # fresh until, stale until
        self.closed: frozenset[int] = frozenset()
        """TCP ports of this machine that no session is sent to, whatever name leads there: those of the REST API."""
        self.asking: dict[str, asyncio.Future[list[tuple[socket.AddressFamily, str]]]] = {}

    async def resolve(self, host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[Address]:
        """Addresses of `host`, in the order of preference. Raises Error("dns"), Error("forbidden"): they are the REST API's."""
        found = literal(host, port)
        if found is not None:
            return self._open([found], host, port, kind)
        if not host:
            raise Error("dns", "the endpoint has no address", "upstream", "yes")
        now = asyncio.get_running_loop().time()
        known = self.known.get(host)
        if known is not None and now < known[0]:
            hosts = known[2]
        else:
            hosts = await self._ask(host, kind)
        addresses: list[Address] = [(family, (ip, port) if family == socket.AF_INET else (ip, port, 0, 0)) for family, ip in hosts]
        return self._open(addresses, host, port, kind)

    def _open(self, addresses: list[Address], host: str, port: int, kind: socket.SocketKind) -> list[Address]:
        """Those that sessions may be sent to. Raises Error("forbidden") when there is none."""
        if port not in self.closed or kind != socket.SOCK_STREAM:
            return addresses
        found = [address for address in addresses if not is_here(str(address[1][0]))]
        if not found:
            raise Error("forbidden", f"{host}:{port} is where the REST API of this proxy listens", "upstream", "yes")
        return found

    async def _ask(self, host: str, kind: socket.SocketKind) -> list[tuple[socket.AddressFamily, str]]:
        pending = self.asking.get(host)
        if pending is None:
            pending = self.asking[host] = asyncio.ensure_future(self._look_up(host, kind))
            pending.add_done_callback(lambda done: self._asked(host, done))
        return await asyncio.shield(pending)

    def _asked(self, host: str, done: asyncio.Future[list[tuple[socket.AddressFamily, str]]]) -> None:
        del self.asking[host]
        if not done.cancelled():
            done.exception()  # all who asked may be gone; then nobody else looks at it

    async def _look_up(self, host: str, kind: socket.SocketKind) -> list[tuple[socket.AddressFamily, str]]:
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(host, None, type=kind)
        except (OSError, ValueError) as exc:  # ValueError: no name at all (an empty label, a NUL)
            known = self.known.get(host)
            if known is not None and loop.time() < known[1]:
                return known[2]
            raise Error("dns", f"{host}: {getattr(exc, 'strerror', None) or exc}", "upstream", "yes") from None
        hosts: list[tuple[socket.AddressFamily, str]] = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in infos))
        if len(self.known) >= CAP:
            self.known.clear()
        now = loop.time()
        self.known[host] = (now + self.ttl, now + self.ttl + self.stale, hosts)
        return hosts

    def forget(self, host: str) -> None:
        """A connection to the known address failed: ask again at the next one, keep the answer as a stale one."""
        known = self.known.get(host)
        if known is not None:
            self.known[host] = (0.0, known[1], known[2])
