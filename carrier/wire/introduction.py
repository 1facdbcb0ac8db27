"""The PROXY protocol, versions 1 and 2: how a proxy in front says who has connected to it (haproxy, doc/proxy-protocol.txt).

It is one header before everything else. `Introduction` reads it, fed as it comes; `version_1` and `version_2` write it.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from carrier.errors import Error, shown

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_1 = 107
"""Bytes of a header of version 1 with its line end, at most."""
LONGEST_2 = 16 + 4096
"""Bytes of one of version 2 that we take: its length has 16 bits, and nobody needs them all."""
ALPN, AUTHORITY, CHECKSUM, TLS = 0x01, 0x02, 0x03, 0x20
VERSION, COMMON_NAME = 0x21, 0x22
"""What stands in the value TLS, behind five bytes: what the client has (bits), and 0 for a certificate that is good."""
SECURED, CERTIFIED = 0x01, 0x02 | 0x04
"""The client speaks TLS; it has shown a certificate, on this connection and in this session."""
LOCAL = {"v1": b"PROXY UNKNOWN\r\n", "v2": SIGNATURE + b"\x20\0\0\0"}
"""What a proxy says of a connection of its own, such as a health check."""
_FAMILIES = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}
HostPort = tuple[str, int]


class Introduced(NamedTuple):
    """Who has connected to whom; and of a TLS that ends in front the name that was asked for, the protocol that was agreed on, its version
    ("TLSv1.3", "" without TLS), and the common name of the client's certificate."""

    peer: HostPort
    local: HostPort
    sni: str = ""
    alpn: str = ""
    tls: str = ""
    name: str = ""

    def secured(self) -> dict[str, Any] | None:
        """What a session's metadata says of that TLS, below /TLS; None: there was none, or nothing was said of it."""
        if not self.sni and not self.alpn and not self.tls:
            return None
        found: dict[str, Any] = {"sni": self.sni, "version": self.tls}
        if self.alpn:
            found["alpn"] = self.alpn
        if self.name:
            found["client"] = {"commonName": self.name}
        return found


class Introduction:
    """Reads one header. `more`: how many bytes it is sure to have yet; 0 when it is whole. `said`: who it is; None: the proxy itself, whose
    own address holds (LOCAL, UNKNOWN)."""

    def __init__(self) -> None:
        self.held = b""
        self.more = 15  # that of the shortest header, "PROXY UNKNOWN\r\n"
        self.said: Introduced | None = None

    def feed(self, data: bytes) -> None:
        """Read on, `more` bytes at most. Raises Error("protocol-error")."""
        held = self.held = self.held + data
        if SIGNATURE.startswith(held[:12]):
            self._second(held)
        elif b"PROXY ".startswith(held[:6]):
            self._first(held)
        else:
            raise _bad(f"a connection from a proxy begins with {shown(held[:16])}, not with a PROXY header")

    def _first(self, held: bytes) -> None:
        if not held.endswith(b"\r\n"):
            if len(held) >= LONGEST_1 or b"\n" in held:
                raise _bad(f"PROXY header {shown(held)} has no end")
            self.more = 1 if len(held) >= 15 else 15 - len(held)
            return
        self.more = 0
        words = held[:-2].split(b" ")
        if words[1:2] == [b"UNKNOWN"]:
            return
        version = {b"TCP4": 4, b"TCP6": 6}.get(words[1] if len(words) > 1 else b"")
        if version is None or len(words) != 6:
            raise _bad(f"PROXY header {shown(held)} is none")
        try:
            found = [ipaddress.ip_address(word.decode("ascii")) for word in words[2:4]]
            ports = [int(word) for word in words[4:6] if word.isdigit()]
            if len(ports) != 2 or max(ports) > 65535 or any(address.version != version for address in found):
                raise ValueError
        except ValueError:
            raise _bad(f"PROXY header {shown(held)} has no addresses of {words[1].decode()}") from None
        self.said = _introduced(found, ports)

    def _second(self, held: bytes) -> None:
        if len(held) < 16:
            self.more = 16 - len(held)
            return
        kind, family, length = held[12], held[13], struct.unpack_from(">H", held, 14)[0]
        if kind not in (0x20, 0x21) or 16 + length > LONGEST_2:
            raise _bad(f"PROXY header of version {kind >> 4}, command {kind & 15}, {length} bytes")
        self.more = 16 + length - len(held)
        if self.more > 0 or kind == 0x20:
            return
        known = _FAMILIES.get(family)
        if known is None:  # not TCP over IP: the proxy knows whom it means
            return
        _, size = known
        if length < 2 * size + 4:
            raise _bad(f"PROXY header of {length} bytes has no addresses")
        found = [ipaddress.ip_address(held[at : at + size]) for at in (16, 16 + size)]
        ports = struct.unpack_from(">HH", held, 16 + 2 * size)
        values = dict(_values(held[20 + 2 * size :]))
        if CHECKSUM in values:
            _check(held, values[CHECKSUM])
        if TLS in values:
            values |= dict(_values(values[TLS][5:]))
        texts = [values.get(name, b"").decode("utf-8", "replace") for name in (AUTHORITY, ALPN, VERSION, COMMON_NAME)]
        self.said = _introduced(found, ports, *texts)


def _introduced(hosts: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address], ports: Sequence[int], *texts: str) -> Introduced:
    """A proxy that listens on `::` tells of IPv4 clients by mapped addresses; they are who they are without."""
    mapped = [getattr(host, "ipv4_mapped", None) for host in hosts]
    (peer, local) = map(str, mapped if all(mapped) else hosts)
    return Introduced((peer, ports[0]), (local, ports[1]), *texts)


def _values(data: bytes) -> list[tuple[int, bytes]]:
    """Type and value of what stands behind the addresses. Raises Error where it ends in the middle of one."""
    found, i = [], 0
    while i < len(data):
        kind, size = struct.unpack_from(">BH", data, i) if len(data) - i >= 3 else (0, len(data))
        if i + 3 + size > len(data):
            raise _bad("PROXY header of version 2 ends in the middle of a value")
        found.append((kind, data[i + 3 : i + 3 + size]))
        i += 3 + size
    return found


def _check(held: bytes, checksum: bytes) -> None:
    """Hold a header of version 2 against its CRC-32C, which is taken with zeros in its own place (section 2.2.4). Raises Error."""
    mark = struct.pack(">BH", CHECKSUM, 4) + checksum
    at = held.rfind(mark) + 3
    if len(checksum) != 4 or crc32c(held[:at] + bytes(4) + held[at + 4 :]) != int.from_bytes(checksum, "big"):
        raise _bad(f"PROXY header of version 2 does not have the checksum that it tells, {checksum.hex()}")


@cache
def _table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return tuple(table)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4): zlib has another one, and headers are short."""
    table, found = _table(), 0xFFFFFFFF
    for byte in data:
        found = table[(found ^ byte) & 255] ^ found >> 8
    return found ^ 0xFFFFFFFF


def _bad(detail: str) -> Error:
    return Error("protocol-error", detail, "downstream")


def version_1(peer: HostPort, local: HostPort) -> bytes:
    """The header of version 1."""
    found = _packed(peer, local)
    if found is None:
        return LOCAL["v1"]
    kind = "TCP4" if found[0] == 0x11 else "TCP6"
    return f"PROXY {kind} {peer[0]} {local[0]} {peer[1]} {local[1]}\r\n".encode()


def version_2(peer: HostPort, local: HostPort, sni: str = "", alpn: str = "", tls: str = "", name: str = "") -> bytes:
    """The header of version 2, with what is known of a TLS that ends here: see `Introduced`."""
    values = [(ALPN, alpn.encode()), (AUTHORITY, sni.encode())]
    if tls:
        inside = _written([(VERSION, tls.encode()), (COMMON_NAME, name.encode())])
        values.append((TLS, struct.pack(">BI", SECURED | (CERTIFIED if name else 0), 0) + inside))
    written = _written(values)
    found = _packed(peer, local)
    if found is None:
        return LOCAL["v2"]
    family, addresses = found
    return SIGNATURE + struct.pack(">BBH", 0x21, family, len(addresses) + len(written)) + addresses + written


def _written(values: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in values if value)


def _packed(peer: HostPort, local: HostPort) -> tuple[int, bytes] | None:
    """Family and addresses as version 2 has them; None where they are not two of IP and of one kind."""
    for family, (number, _) in _FAMILIES.items():
        try:
            hosts = socket.inet_pton(number, peer[0]) + socket.inet_pton(number, local[0])
        except (OSError, TypeError):
            continue
        return family, hosts + struct.pack(">HH", peer[1], local[1])
    return None
