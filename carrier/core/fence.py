"""Where user bridges may lead: whoever may make a bridge has the proxy connect for him, and the proxy's place in the network is not his.

Addresses of the link (169.254.0.0/16, fe80::/10) are refused unless they are named: a cloud's metadata service answers there, and tells
whoever asks from a pod what the pod may do. Never does a bridge lead to a listener of this process: its sessions would go round until all
connections are used up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.address import Key
    from carrier.core.lookup import Place

Network = IPv4Network | IPv6Network
LINK: tuple[Network, ...] = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"), ip_network("fd00:ec2::/32"))
"""Of the link, and where one cloud has its metadata service in IPv6."""
EVERYWHERE = ("*", "::")
"""What a listener without an address, or of both families, is bound to."""


class Fence:
    """Networks that bridges may lead to; none named: every one but LINK. Raises ValueError, TypeError: not a list of networks."""

    def __init__(self, networks: Iterable[str] | None = None) -> None:
        if isinstance(networks, str):
            raise TypeError("expected a list of networks, got a text")
        self.networks: tuple[Network, ...] | None = None if networks is None else tuple(map(ip_network, networks))

    def lets(self, host: str) -> bool:
        """May a bridge lead to this address? What is no address is asked again when it has been looked up."""
        address = _address(host)
        if address is None:
            return True
        mine = self.networks or ()
        if any(address in network for network in LINK if network.version == address.version):
            mine = tuple(n for n in mine if any(n.version == link.version and n.subnet_of(link) for link in LINK))  # type: ignore[arg-type]
        elif self.networks is None:
            return True
        return any(address in network for network in mine if network.version == address.version)

    def __str__(self) -> str:
        return "every network but those of the link" if self.networks is None else ", ".join(map(str, self.networks)) or "none"


class Claims(Protocol):
    """A class of listeners, as far as it says what one of them will occupy."""

    def claim(self, spec: Mapping[str, Any]) -> Key | None: ...


class Own:
    """Where the listeners of this process are: `places` has their keys (carrier/core/address.py). What is here is asked of the kernel."""

    def __init__(self, places: Iterable[Key] = ()) -> None:
        self.places = frozenset(places)
        self.ports = frozenset((kind, number) for kind, _, number in self.places if number > 0)
        """(transport, port) of each: whatever leads elsewhere has another."""
        self.files = any(kind.startswith("unix") for kind, _, _ in self.places)

    def at(self, transport: str, host: str, port: object, names: Mapping[str, list[Place]] | None = None) -> bool:
        """Is one of them at this address, or at this name, as far as that is known without asking a name server? names: those of
        /etc/hosts. port None: `host` is the name of a socket's file."""
        there = [bound for kind, bound, number in self.places if number == port and kind == transport]
        if port is None:
            return any(_same_file(host, bound) for kind, bound, _ in self.places if kind.startswith("unix"))
        return bool(there) and any(_leads(address, bound) for address in _addresses(host, names or {}) for bound in there)


def claimed(listeners: Iterable[config.Listener], kinds: Callable[[str], Claims | None]) -> Own:
    """Where listeners will be, as far as their ports are not the kernel's choice. kinds: protocol -> class."""
    found: list[Key] = []
    for listener in listeners:
        spec, kind = listener.spec, kinds(listener.spec.get("protocol", ""))
        key = kind.claim(spec) if kind is not None else None
        if key is None and isinstance(spec.get("filename"), str):
            key = "unix", spec["filename"], -1
        found += [key] if key is not None else []
    return Own(found)


def _same_file(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False  # one of them is not there yet


def _addresses(host: str, names: Mapping[str, list[Place]]) -> Iterator[IPv4Address | IPv6Address]:
    """The addresses that a host means. Of a name they are those that this machine gives it itself."""
    address = _address(host)
    if address is not None:
        yield address
        return
    name = host.lower().rstrip(".")
    for place in names.get(name, ()):
        yield _plain(ip_address(place.address))
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        yield IPv4Address("127.0.0.1")
        yield IPv6Address("::1")


def _leads(address: IPv4Address | IPv6Address, bound: str) -> bool:
    """Does a connection to an address come to who is bound there?"""
    if address.is_unspecified:  # connect(2) takes it for loopback
        address = IPv4Address("127.0.0.1") if address.version == 4 else IPv6Address("::1")
    if bound in EVERYWHERE or (bound == "0.0.0.0" and address.version == 4):
        return is_ours(address)
    return address == _address(bound)


def is_ours(address: IPv4Address | IPv6Address) -> bool:
    """Is it an address of this machine?"""
    return address.is_loopback or is_address_of_ours(str(address))


def is_address_of_ours(address: str) -> bool:
    """The kernel sends to an address of its own from that very address. To connect a socket of datagrams sends nothing."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
            return str(sock.getsockname()[0]) == address
    except OSError:
        return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """A literal address, without brackets and zone; None: it is none."""
    try:
        return _plain(ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4, or of NAT64 (RFC 6052)."""
    if isinstance(address, IPv4Address):
        return address
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
