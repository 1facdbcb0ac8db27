"""The PROXY header that connections to an endpoint begin with, where `spec.proxy_protocol` asks for it: who the client of a session is.

It stands before everything else, TLS included (haproxy, doc/proxy-protocol.txt). Version 2 also tells of a TLS that ends here: the name
that was asked for, the protocol that was agreed on, and whose certificate the client has shown.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from carrier.errors import Problem, from_os
from carrier.wire.introduction import version_1, version_2

VERSIONS = ("v1", "v2")
FIELD = "v1 or v2: say first who has connected (PROXY protocol)"
"""What `proxy_protocol` is, in the fields of a cluster's spec."""


class Known(Protocol):
    """A session, as far as it is introduced."""

    @property
    def metadata(self) -> dict[str, Any]: ...


def check_version(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """What is wrong with `proxy_protocol` of a cluster's spec."""
    if spec.get("proxy_protocol", "v1") in VERSIONS:
        return []
    return [Problem("no version of PROXY", f"{path}.proxy_protocol", seen=repr(spec["proxy_protocol"]), allowed=", ".join(VERSIONS))]


def introduction(session: Known, version: str) -> bytes:
    """The header of this version for a session; b"" for no version."""
    if not version:
        return b""
    found = session.metadata
    address, port, tls = found.get("IP") or {}, found.get("TCP") or found.get("UDP") or {}, found.get("TLS") or {}
    peer = str(address.get("src_addr", "")), int(port.get("src_port", 0))
    local = str(address.get("dst_addr", "")), int(port.get("dst_port", 0))
    if version == "v1":
        return version_1(peer, local)
    alpn, client = tls.get("alpn"), tls.get("client") or {}
    sni, name, spoken = str(tls.get("sni") or ""), str(client.get("commonName") or ""), str(tls.get("version") or "")
    return version_2(peer, local, sni, alpn if isinstance(alpn, str) else "", spoken, name)


async def introduce(loop: asyncio.AbstractEventLoop, sock: socket.socket, header: bytes, where: str) -> None:
    """Send the header. Raises Error; then the socket is closed."""
    try:
        await loop.sock_sendall(sock, header)
    except OSError as exc:
        sock.close()
        raise from_os(exc, "upstream", where, "yes") from None
    except BaseException:
        sock.close()
        raise
