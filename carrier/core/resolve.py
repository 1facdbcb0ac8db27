"""Names of endpoints to addresses: looked up by carrier/core/lookup.py, remembered for as long as they are good.

A literal address costs nothing. An answer is kept for as long as it says, within bounds; after that it serves on while a new one is asked
for, so that nobody waits, and when asking fails for `stale` seconds more, because a name server that hiccups must not take a service down
(`GONE` seconds where it says that there is no such name).
Only when a known address has failed is a new answer waited for, for a moment. Concurrent questions share one look-up.

An address of several that failed, or did not answer before another one did, comes last for a while (RFC 8305 section 5.2: who has answered
is remembered).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from carrier.core.lookup import Found, Lookup, Place, Unknown
from carrier.errors import Error

Address = tuple[socket.AddressFamily, Any]
"""An address family and a socket address of that family."""

CAP = 4096
LEAST, MOST = 1.0, 300.0
"""Seconds that an answer is kept, whatever it says of itself."""
DOUBT = 1.0
"""Seconds that a new answer is waited for where the known addresses have failed; and between two such questions."""
LAST = 30.0
"""Seconds that an address that has failed comes last."""
NOTHING = 1.0
"""Seconds that a name that nobody knows is not asked for again."""
AHEAD = 1.0
"""Seconds before the end of its time that the name of connections which are kept is asked for again: whoever looks at it, once a second,
has the new answer when the old one is over."""
GONE = 30.0
"""Seconds that the old addresses of a name serve which, name servers say, is no name any more: they may be another service's by now."""


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


class Known:
    """What is known of a name. fresh, stale: monotonic seconds until which it is good, and serves. doubted: its addresses have failed.
    error: why there are none."""

    __slots__ = ("doubted", "error", "fresh", "places", "stale")

    def __init__(self, places: list[Place], fresh: float, stale: float, error: Error | None = None) -> None:
        self.places = places
        self.fresh = fresh
        self.stale = stale
        self.error = error
        self.doubted = False


class Resolver:
    """Looks endpoint names up. ttl: seconds that an answer is kept at most; stale: seconds that it serves beyond."""

    def __init__(self, ttl: float = MOST, stale: float = 300.0, lookup: Lookup | None = None) -> None:
        self.ttl = ttl
        self.stale = stale
        self.lookup = lookup or Lookup()
        self.known: dict[str, Known] = {}
        self.closed: frozenset[int] = frozenset()
        """TCP ports of this machine that no session is sent to, whatever name leads there: those of the REST API."""
        self.asking: dict[str, asyncio.Task[Known]] = {}
        self.last: dict[str, float] = {}
        """Addresses that have failed, and until when they come last."""

    async def resolve(self, host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[Address]:
        """Addresses of `host`, in the order of preference. Raises Error("dns"), Error("forbidden"): they are the REST API's."""
        found = literal(host, port)
        if found is not None:
            return self._open([found], host, port, kind)
        if not host:
            raise Error("dns", "the endpoint has no address", "upstream", "yes")
        known = await self._known(host)
        addresses: list[Address] = []
        for family, ip, own in self._sorted(known.places):
            addresses.append((family, (ip, own or port) if family == socket.AF_INET else (ip, own or port, 0, 0)))
        return self._open(addresses, host, port, kind)

    async def _known(self, host: str) -> Known:
        """What is known of a name, asked for if need be. Raises Error("dns")."""
        known = self.known.get(host)
        now = self._now()
        if known is None or now >= known.stale:
            known = await asyncio.shield(self._ask(host))
        elif known.doubted:
            await asyncio.wait((self._ask(host),), timeout=DOUBT)
            known = self.known.get(host, known)
        elif now >= known.fresh:
            self._ask(host)
        if known.error is not None:
            raise Error(known.error.kind, known.error.detail, known.error.side, known.error.retry)
        return known

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _sorted(self, places: list[Place]) -> list[Place]:
        """Those that have failed last."""
        if not self.last or len(places) < 2:
            return places
        now = self._now()
        return sorted(places, key=lambda place: self.last.get(place.address, 0.0) > now)

    def _open(self, addresses: list[Address], host: str, port: int, kind: socket.SocketKind) -> list[Address]:
        """Those that sessions may be sent to. Raises Error("forbidden") when there is none."""
        if kind != socket.SOCK_STREAM or not self.closed:
            return addresses
        found = [(family, at) for family, at in addresses if at[1] not in self.closed or not is_here(str(at[0]))]
        if not found and addresses:
            raise Error("forbidden", f"{host}:{port} is where the REST API of this proxy listens", "upstream", "yes")
        return found

    # ------------------------------------------------------------------ asking

    def _ask(self, host: str) -> asyncio.Task[Known]:
        """The look-up of a name: the one that is under way, or a new one."""
        asking = self.asking.get(host)
        if asking is None:
            asking = self.asking[host] = asyncio.ensure_future(self._look_up(host))
            asking.add_done_callback(lambda done: self._asked(host, done))
        return asking

    def _asked(self, host: str, done: asyncio.Task[Known]) -> None:
        self.asking.pop(host, None)
        if not done.cancelled():
            done.exception()  # all who asked may be gone; then nobody else looks at it

    async def _look_up(self, host: str) -> Known:
        try:
            found = await self.lookup.find(host)
        except Error as error:
            return self._failed(host, error)
        return self._keep(host, found)

    def _failed(self, host: str, error: Error) -> Known:
        """The last answer serves on, if there is one that may; it is asked for again in a moment."""
        now = self._now()
        known = self.known.get(host)
        if known is not None and isinstance(error, Unknown):
            known.stale = min(known.stale, now + GONE)
        if known is not None and known.error is None and now < known.stale:
            known.fresh, known.doubted = now + NOTHING, False
            return known
        return self._remember(host, Known([], now + NOTHING, now + NOTHING, error.bare()))

    def _keep(self, host: str, found: Found) -> Known:
        ttl = min(max(found.ttl, LEAST), self.ttl)
        now = self._now()
        return self._remember(host, Known(found.places, now + ttl, now + ttl + self.stale))

    def _remember(self, host: str, known: Known) -> Known:
        if len(self.known) >= CAP:
            self.known.clear()
        self.known[host] = known
        return known

    # ------------------------------------------------------------------ what others have learnt

    def forget(self, host: str) -> None:
        """Connections to the known addresses failed: ask again before the next one, keep the answer as a stale one."""
        known = self.known.get(host)
        if known is not None:
            known.doubted = True

    def failed(self, address: Address) -> None:
        """Nobody is at this address, or nobody who answered before another did: it comes last for a while."""
        if len(self.last) >= CAP:
            self.last.clear()
        self.last[str(address[1][0])] = self._now() + LAST

    def places(self, host: str) -> frozenset[str] | None:
        """The addresses that a name has by now, which is looked up again when it is time; none: there is no such name any more. None: it
        is no name, or nothing is known."""
        known = self.known.get(host)
        if known is None or (known.error is not None and not isinstance(known.error, Unknown)):
            return None
        if self._now() >= known.fresh - AHEAD:
            self._ask(host)
        return frozenset(place.address for place in known.places)
