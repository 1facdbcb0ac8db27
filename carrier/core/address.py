"""Addresses: bound, compared, written; what binding failed of, in words."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Mapping
from typing import Any

from carrier.core.resolve import literal
from carrier.core.spec import check_members
from carrier.errors import Error, Problem, from_os

Key = tuple[str, str, int]
"""What a listener occupies: transport, host or file, port. Two listeners of one key are refused."""
BACKLOG = 4096
KEEP_ALIVE = ((socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
"""Seconds of silence until a peer is asked, between two questions, and how many of those stay unanswered."""
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
"""What binding to "::" says on a machine without IPv6: not built in, or switched off."""


def plain(host: str) -> str:
    """An address as people write it: a mapped IPv4 address without its prefix."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def is_loopback(address: str) -> bool:
    """Is it a literal address of this machine's loopback interface?"""
    try:
        return ipaddress.ip_address(plain(address.strip("[]"))).is_loopback
    except ValueError:
        return False


def bind_stream(name: str, host: str | None, port: Any, transport: int = socket.IPPROTO_TCP) -> list[socket.socket]:
    """Listening sockets, TCP by default. host None: every address, IPv6 and IPv4 on one socket where the kernel can. Raises
    Error("bind")."""
    if not isinstance(port, int):
        raise Error("bind", f'"{name}": expected a port 0..65535, got {port!r}')
    address = literal(host if host is not None else "::", port)
    if address is None:
        raise Error("bind", f'"{name}": expected an IP address to bind to, got {host!r}')
    try:
        return [_bind(address[0], address[1], host is None, transport)]
    except OSError as exc:
        if host is None and (not socket.has_ipv6 or exc.errno in NO_IPV6):
            return bind_stream(name, "0.0.0.0", port, transport)
        raise bind_error(name, host or "::", port, exc) from None
    except OverflowError:
        raise Error("bind", f'"{name}": expected a port 0..65535, got {port!r}') from None


def bind_error(name: str, host: str, port: int, exc: OSError) -> Error:
    error = from_os(exc, "carrier")
    return Error("bind", f'"{name}": Could not bind to {authority(host, port)}: {error.detail}')


def authority(host: str, port: object) -> str:
    """Host and port as people write them: an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def keep_alive(sock: socket.socket, silence: int = 60) -> None:
    """A TCP peer that has left the network without a word is found out a minute after so many seconds of silence. What a listening socket
    accepts inherits this (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (socket.TCP_KEEPIDLE, silence), *KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


UNACKNOWLEDGED = 10.0
"""Seconds after which a connection is lost whose other host acknowledges nothing: a laptop that has left the network says no goodbye, and
its user need not wait for all of the answer's time."""


def quiet_since(sock: socket.socket | None, before: float, now: float) -> float:
    """Since when (monotonic seconds) the other host of a TCP connection is asked in vain: data is sent again, or its closed window probed,
    and nothing comes back (tcp(7), TCP_INFO). 0.0: it answers. before: what the last call said.

    A program that is stopped by a debugger, or reads nothing, is not that: its host acknowledges. TCP_USER_TIMEOUT cannot tell the two.
    """
    if sock is None:
        return 0.0
    try:
        _, _, sent_again, probes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4)
    except OSError:
        return 0.0
    return (before or now) if sent_again or probes else 0.0


def _bind(family: int, address: Any, dual: bool, transport: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, transport)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind(address)
        if transport == socket.IPPROTO_TCP:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it, too
            keep_alive(sock)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Place:
    """What a socket was bound to, so that it can be bound there again once it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.family, self.kind, self.proto, self.name = sock.family, sock.type, sock.proto, sock.getsockname()
        self.only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) if sock.family == socket.AF_INET6 else 0
        self.listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def bind(self) -> socket.socket:
        """A socket that is bound there, and listens if the first one did. Raises OSError."""
        sock = socket.socket(self.family, self.kind | socket.SOCK_NONBLOCK, self.proto)
        try:
            if self.listens:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.only)
            sock.bind(self.name)
            if self.listens and self.proto == socket.IPPROTO_TCP:
                keep_alive(sock)
            if self.listens:
                sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock


HostPort = tuple[str, int]
"""Host, as people write it, and port."""


def places(sock: socket.socket) -> tuple[HostPort, HostPort]:
    """Where an accepted connection comes from, and where it arrived. Raises OSError: it is gone already, and nobody has kept its name
    (carrier/core/accepting.py: Met)."""
    told = getattr(sock, "told", None)
    if told is not None:  # by a proxy in front
        return told.peer, told.local
    try:
        peer = sock.getpeername()
    except OSError:
        peer = getattr(sock, "peer", None)
        if not peer:
            raise
    local = sock.getsockname()
    return (plain(peer[0]), peer[1]), (plain(local[0]), local[1])


def secured(sock: Any) -> dict[str, Any] | None:
    """What a proxy in front said of a TLS that ended there."""
    told = getattr(sock, "told", None)
    return told.secured() if told is not None else None


def described(peer: HostPort, local: HostPort, tls: Mapping[str, Any] | None = None, transport: str = "TCP") -> dict[str, Any]:
    """What a session's metadata says of its connection, as l7mp lays it out."""
    found: dict[str, Any] = {
        "IP": {"src_addr": peer[0], "dst_addr": local[0]},
        transport: {"src_port": peer[1], "dst_port": local[1]},
    }
    if tls is not None:
        found["TLS"] = tls
    return found


def named(peer: HostPort, local: HostPort, transport: str = "TCP") -> str:
    """How l7mp names a session of such a connection."""
    return f"{transport}:{peer[0]}:{peer[1]}-{local[0]}:{local[1]}"


def wall(monotonic: float) -> float:
    """Seconds since 1970 of a moment of the monotonic clock."""
    return monotonic + time.time() - time.monotonic()


def local_address(spec: Mapping[str, Any]) -> tuple[str, int] | None:
    """The `spec.bind` of a cluster as a socket address, or None; parts that make no sense count as not given."""
    bind = spec.get("bind")
    if not isinstance(bind, dict):
        return None
    host, port = bind.get("address"), bind.get("port")
    return host if isinstance(host, str) else "", port if isinstance(port, int) and 0 <= port <= 65535 else 0


def check_bind(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with `spec.bind`, by the strict standard."""
    bind = spec.get("bind")
    if bind is None:
        return []
    if not isinstance(bind, dict):
        return [Problem(f"expected an object, got {bind!r}", f"{path}.bind", seen=repr(bind), allowed="{address, port}")]
    host, port = bind.get("address", ""), bind.get("port", 0)
    found = check_members(bind, f"{path}.bind", ("address", "port"))
    if not isinstance(host, str) or (host and literal(host, 0) is None):
        found.append(Problem(f"expected an IP address, got {host!r}", f"{path}.bind.address", seen=repr(host), allowed="IPv4 or IPv6"))
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        found.append(Problem(f"expected a port 0..65535, got {port!r}", f"{path}.bind.port", seen=repr(port), allowed="0..65535"))
    return found
