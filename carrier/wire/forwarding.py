"""What a proxy adds to and takes from a request's fields: who forwarded it, for whom, and whose claims are believed."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import product

import msgspec

from carrier.wire.http import EXPLAIN, HOP, Fields, Head


def _spellings(name: bytes) -> Iterator[bytes]:
    """The name with each "-" as it is or as "_"."""
    first, *others = name.split(b"-")
    for between in product((b"-", b"_"), repeat=len(others)):
        yield first + b"".join(map(operator.add, between, others))


_CLAIMS = (
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-client-cert",
    b"x-forwarded-prefix",
    b"x-forwarded-ssl",
    b"x-forwarded-scheme",
    b"x-forwarded-server",
    b"x-forwarded-user",
    b"x-forwarded-email",
    b"x-forwarded-groups",
    b"x-forwarded-preferred-username",
    b"x-forwarded-access-token",
    b"x-forwarded-tls-client-cert",
    b"x-forwarded-tls-client-cert-info",
    b"x-forwarded-method",
    b"x-forwarded-uri",
    b"x-forwarded-path",
    b"x-forwarded-by",
    b"x-forwarded",
    b"forwarded-for",
    b"front-end-https",
    b"true-client-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-original-forwarded-for",
    b"x-original-proto",
    b"x-envoy-external-address",
    b"x-envoy-internal",
    b"cf-connecting-ip",
    b"fastly-client-ip",
    b"wl-proxy-client-ip",
    b"proxy-client-ip",
    b"proxy",  # not a claim, but read as one of the server's own settings by what stands behind CGI (CVE-2016-5385)
    b"x-real-ip",
    b"x-original-url",
    b"x-original-host",
    b"x-rewrite-url",
    b"forwarded",
)
ALIASES = frozenset(spelt for name in _CLAIMS for spelt in _spellings(name)) - {*_CLAIMS}
"""Names that a server behind CGI or WSGI takes for claims: "-" and "_" are the same to it (RFC 3875 4.1.18). Never sent on: a trusted proxy
that knows only the real names passes its clients' forgeries."""
PROPER = frozenset(_CLAIMS)
OURS_ONLY = HOP | {EXPLAIN}
CLAIMS = ALIASES | PROPER
"""What a peer says about whom it speaks for: believed from trusted peers only."""
HOPS = b"x-carrier-hops"
"""Through how many listeners of ours a request has come. Whoever sends it: it can only be refused for it, never be trusted more."""
MOST_HOPS = 1_000_000
"""What a count of more digits than anybody needs is taken for."""


def passed(values: Iterable[bytes]) -> int:
    """What the fields HOPS say, the largest number of all; what is no number says nothing."""
    found = [value.strip(b" \t") for line in values for value in line.split(b",")]
    return max((int(value) if len(value) <= 6 else MOST_HOPS for value in found if value.isdigit()), default=0)


class Forwarding(msgspec.Struct, frozen=True):
    """What the wire form of a request does with the fields of its way.

    interesting: lower-case names of the fields that rules look at, beside the target; None if they look at all of them (`Head.key` is
    None then). scheme: how the client came, "http" or "https". x_forwarded: cut the client's own claims (CLAIMS) and send
    `x-forwarded-for`, `-proto` and `-host`. forwarded: RFC 7239. via: our pseudonym, or empty for none. request_id: field name, or empty
    for none. host: replaces Host, if set. default_host: sent when an HTTP/1.0 client named none (RFC 9112 3.3). trusted: this peer's
    claims are kept and added to; a listener has one memo for trusted peers and one for the rest. keeps: whoever asks, its claims go on as
    they came, and nothing is added to a request that has any: the app behind us sees what it would see without us. counts: HOPS is one
    more than it was, so that who goes round is noticed.
    """

    interesting: frozenset[bytes] | None = frozenset()
    scheme: bytes = b"http"
    x_forwarded: bool = True
    forwarded: bool = False
    via: bytes = b""
    request_id: bytes = b"x-request-id"
    host: bytes = b""
    default_host: bytes = b"localhost"
    trusted: bool = False
    keeps: bool = False
    counts: bool = False

    def confusable(self, name: bytes) -> bool:
        """Would a server that reads "_" as "-" (CGI and WSGI do) take this field (lower case) for one that rules look at?"""
        return bool(self.interesting) and b"_" in name and name.replace(b"_", b"-") in (self.interesting or ())

    def cut(self) -> frozenset[bytes]:
        """Names that never pass, beside those that Connection names. What asks us why is nobody else's: it may be a bridge's token."""
        names = OURS_ONLY | {b"host"} if self.host else OURS_ONLY
        if self.counts:
            names = names | {HOPS}
        if self.keeps:
            return names | ALIASES
        if self.trusted:
            return names | ALIASES | {b"x-forwarded-for"} if self.x_forwarded else names
        return names | CLAIMS if self.x_forwarded or self.forwarded else names

    def standing(self, host: bytes, seen: Mapping[bytes, object], version: bytes = b"1.1", hops: int = 0) -> Fields:
        """Fields that are the same for every request with this Host; `seen` has the lower-case names that came. version: it came with;
        hops: that it has passed."""
        found: list[tuple[bytes, bytes]] = [(b"host", self.host)] if self.host else []
        adds = self.x_forwarded and not (self.keeps and not PROPER.isdisjoint(seen))
        if adds and not (self.trusted and b"x-forwarded-proto" in seen):
            found.append((b"x-forwarded-proto", self.scheme))
        if adds and host and not (self.trusted and b"x-forwarded-host" in seen):
            found.append((b"x-forwarded-host", host))
        if self.via:
            found.append((b"via", version + b" " + self.via))
        if self.counts:
            found.append((HOPS, b"%d" % (hops + 1)))
        return tuple(found)

    def extra(self, head: Head, peer: bytes, made: bytes = b"") -> bytes:
        """Lines that differ per connection or request, to be put behind `Head.stem`. `peer`: the client's address without port;
        `made`: an id from `make_id()`, sent if the request came without one."""
        lines = b""
        if self.x_forwarded and not (self.keeps and claims(head)):
            before = head.get(b"x-forwarded-for") if self.trusted else None
            lines = b"x-forwarded-for: " + (before + b", " + peer if before else peer) + b"\r\n"
        if self.forwarded:
            node = b'"[%b]"' % peer if b":" in peer else peer
            lines += b"forwarded: for=%b;proto=%b" % (node, self.scheme)
            lines += b';host="%b"\r\n' % head.authority if head.authority else b"\r\n"
        if made and self.request_id and not head.has_id:
            lines += self.request_id + b": " + made + b"\r\n"
        return lines


def claims(head: Head) -> bool:
    """Does a request say anything of its way to us?"""
    found = head.claims
    if found is None:
        found = head.claims = any(name.lower() in PROPER for name, _ in head.fields)
    return bool(found)


def networks(value: object) -> list[IPv4Network | IPv6Network]:
    """CIDRs as they are configured. Raises TypeError or ValueError with what is wrong."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"expected a list of CIDRs, got {value!r}")
    return [ip_network(str(item), strict=False) for item in value]


def trusts(networks: Iterable[IPv4Network | IPv6Network], peer: str) -> bool:
    """Is the client at `peer` in one of the networks? IPv4-mapped IPv6 addresses count as IPv4. What is no address is not trusted."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def id_of(head: Head, fields: bytes) -> bytes:
    """The x-request-id of a request: its own, or ours, among the lines that were added to it; b"": it has none."""
    if head.has_id and (own := head.get(b"x-request-id")):
        return own
    at = fields.find(b"x-request-id: ")
    return fields[at + 14 : fields.find(b"\r", at + 14)] if at >= 0 else b""


def make_id() -> bytes:
    """A new request id: 32 hex digits. Not a secret; it costs no system call."""
    return b"%032x" % random.getrandbits(128)
