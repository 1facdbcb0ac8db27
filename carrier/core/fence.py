"""Where user bridges may lead: whoever may make a bridge has the proxy connect for him, and the proxy's place in the network is not his.

Addresses of the link (169.254.0.0/16, fe80::/10) are refused unless they are named: a cloud's metadata service answers there, and tells
whoever asks from a pod what the pod may do.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
LINK: tuple[Network, ...] = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"), ip_network("fd00:ec2::/32"))
"""Of the link, and where one cloud has its metadata service in IPv6."""


class Fence:
    """Networks that bridges may lead to; none named: every one but LINK. Raises ValueError, TypeError: not a list of networks."""

    def __init__(self, networks: Iterable[str] | None = None) -> None:
        if isinstance(networks, str):
            raise TypeError("expected a list of networks, got a text")
        self.networks: tuple[Network, ...] | None = None if networks is None else tuple(map(ip_network, networks))

    def lets(self, host: str) -> bool:
        """May a bridge lead to this address? What is no address is asked again when it has been looked up."""
        try:
            found = ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            return True
        address = _plain(found)
        mine = self.networks or ()
        if any(address in network for network in LINK if network.version == address.version):
            mine = tuple(n for n in mine if any(n.version == link.version and n.subnet_of(link) for link in LINK))  # type: ignore[arg-type]
        elif self.networks is None:
            return True
        return any(address in network for network in mine if network.version == address.version)

    def __str__(self) -> str:
        return "every network but those of the link" if self.networks is None else ", ".join(map(str, self.networks)) or "none"


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for: mapped, 6to4, or of NAT64 (RFC 6052)."""
    if isinstance(address, IPv4Address):
        return address
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
