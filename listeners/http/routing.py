"""How the requests of one listener are decided at one revision: memos of heads and of decisions, bounded in bytes.

`Routing` is made anew with each routing table: what was remembered under the old one is asked no more. `Port` is a listener as its
connections and requests know it: its options, what they count, where they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Protocol

from carrier.core.accepting import AtPort
from carrier.core.decision import Decision, Hits
from carrier.core.metadata import MISSING, rewrite_at, text_bytes
from carrier.errors import Error, shown
from carrier.options import numbers
from carrier.rules.target import normal_path
from carrier.wire.forwarding import HOPS, Forwarding, passed
from carrier.wire.h1.memo import RequestMemo
from carrier.wire.http import TOKEN
from carrier.wire.making import rewritable, rewrite, target_of

if TYPE_CHECKING:
    from carrier.core.decision import Needs, Table
    from carrier.core.session import Session
    from carrier.hops.certificates import ServerTls
    from carrier.wire.h1.head import Limits
    from carrier.wire.http import Head, Kin
    from listeners.http.calls import Calls
    from listeners.http.joining import Joining

Networks = Sequence[IPv4Network | IPv6Network]
REMEMBERED = 2 * 1024 * 1024
"""Bytes of decisions that are remembered for heads that are not, by one listener."""
EACH = 300
"""Bytes of one of them, beside those of its key."""
MAX_HOPS = 10
"""Listeners of ours that a request may pass: whoever needs more goes round."""
LONG = 2048
"""Bytes of a key that is remembered at most."""

FOUND, SHORT = 512, 256
"""Decisions that are remembered by shape and target; bytes of a target. A shape that is used no more may be kept by that, with 4 KiB."""


class Asked(Protocol):
    """What a decision needs of who asks."""

    listener: Port

    @property
    def origin(self) -> Any:
        """The connection that it came on (listeners/http/request.py)."""

    def metadata(self, head: Head | None, /) -> dict[str, Any]: ...


class Routing:
    """See the module. profile: what is done with the fields of untrusted clients, trusting: of trusted ones; each has a memo of its own."""

    def __init__(self, table: Table, limits: Limits, options: Mapping[str, Any], scheme: bytes, joining: Joining | None = None) -> None:
        needs = table.needs
        names = None if needs.headers is None else frozenset(name.encode("latin-1") for name in needs.headers)
        common: dict[str, Any] = {
            "interesting": names,
            "via": str(options.get("via") or "").encode("latin-1", "replace"),
            "forwarded": bool(options.get("forwarded")),
            "scheme": scheme,
            "keeps": options.get("forwarding") == "keep",
        }
        self.most_hops = most_hops(options)
        """Listeners of ours that a request may have passed; without such a bound none is counted."""
        common["counts"] = self.most_hops < float("inf")
        self.table = table
        self.joining = joining
        """Takes the paths of join links; None: they are the app's."""
        self.strict = is_strict(options, needs)
        """Targets whose path has no form that all servers agree on are refused: no rule on paths could tell whose they are."""
        self.profile, self.trusting = Forwarding(**common), Forwarding(**common, trusted=True)
        self.memo, self.trusted_memo = RequestMemo(limits, self.profile), RequestMemo(limits, self.trusting)
        self.by_peer = needs.peer
        """Decisions depend on the connection: they are remembered with its place, and not with heads that come on others too."""
        self.by_other = needs.other
        """They depend on what is not looked at here: none is remembered."""
        self.by_target = needs.url or self.strict or joining is not None
        self.decisions: dict[tuple[Any, ...], Decision] = {}
        self.size = 0
        """Bytes of `decisions`."""
        self.found: dict[tuple[Kin, bytes], tuple[Decision, None]] = {}
        """What was decided again and again for heads of one shape and target, which is found at half the price."""

    def forwarding(self, trusted: bool) -> Forwarding:
        return self.trusting if trusted else self.profile

    def route(self, request: Asked, head: Head) -> tuple[Decision, Head | None]:
        """The decision for a request, and the head to send on if the rule rewrites it; remembered with the head where it may be."""
        kin = head.kin
        if kin is not None:
            known = self.found.get((kin, head.target if self.by_target else b""))
            if known is not None:
                head.decision = known
                return known
        if head.hops >= self.most_hops:  # a key need not know of them
            request.listener.hit("max_hops")
            return refusal(goes_round(head.hops, self.most_hops)), None
        key = self._key(request, head)
        decided = self.decisions.get(key) if key is not None else None
        again = decided is not None
        if decided is None:
            apart = self._apart(head)
            if apart is not None:
                return apart
            decided = self.table.decide(request.metadata(head))
            if key is not None:
                self._remember(key, decided)
        onward = rewritten(head, decided) if decided.rewrite else head
        found = decided, None if onward is head else onward
        if not (self.by_peer or self.by_other):
            head.decision = found
            if kin is not None and again and not decided.rewrite and len(head.target) <= SHORT:
                if len(self.found) >= FOUND:
                    self.found.clear()
                self.found[kin, head.target if self.by_target else b""] = decided, None
        return found

    def _key(self, request: Asked, head: Head) -> tuple[Any, ...] | None:
        """What the decision for a request depends on, and whether rules are asked at all; None: on what is not looked at here."""
        if head.key is None or self.by_other:
            return None
        return head.method, head.target if self.by_target else b"", head.key, self._place(request.origin) if self.by_peer else None

    def _apart(self, head: Head) -> tuple[Decision, Head | None] | None:
        """What becomes of a request that no rule is asked about, by its target; None: they are."""
        if self.joining is not None and self.joining.takes(head.location):
            return self.joining.decision, self.joining.onward(head)
        if self.strict and normal_path(head.location.decode("latin-1")) is None:
            return refusal(no_path(head.target)), None
        return None

    def _place(self, origin: Any) -> object:
        """What the rules can tell of a connection; asked once for each. At worst that is one of its own."""
        if origin.placed_by is not self:
            place = self.table.place(origin.peer[0])
            origin.place, origin.placed_by = object() if place is None else place, self
        return origin.place

    def _remember(self, key: tuple[Any, ...], decision: Decision) -> None:
        size = len(key[0]) + len(key[1]) + weight(key[2])
        if size > LONG:
            return
        self.size += size + EACH
        if self.size > REMEMBERED:
            self.decisions.clear()
            self.size = size + EACH
        self.decisions[key] = decision


def most_hops(options: Mapping[str, Any]) -> float:
    return numbers(options, {"max_hops": MAX_HOPS})["max_hops"] or float("inf")


def is_strict(options: Mapping[str, Any], needs: Needs) -> bool:
    return needs.path and options.get("strict_path", 1) != 0


def refused(options: Mapping[str, Any], needs: Needs, http: Mapping[str, Any]) -> Error | None:
    """Why `Routing` with these options would ask no rule about a request with this metadata; None: it would."""
    hops, most = passed([http["headers"].get(HOPS.decode(), "").encode("latin-1", "replace")]), most_hops(options)
    if hops >= most:
        return goes_round(hops, most)
    if is_strict(options, needs) and normal_path(http["url"]["path"]) is None:
        return no_path(http["url"]["url"].encode("latin-1", "replace"))
    return None


def no_path(target: bytes) -> Error:
    """For a target that servers read differently."""
    detail = f"target {shown(target)}: servers disagree about its path, and this port has rules on paths (options.strict_path)"
    return Error("protocol-error", detail, "downstream")


def goes_round(hops: int, most: float) -> Error:
    """For a request that has passed as many listeners of ours as it may."""
    detail = (
        f"the request has passed {hops} listeners of Carrier2 ({HOPS.decode()}): it goes round, or options.max_hops, {most:g}, is too small"
    )
    return Error("loop", detail, "downstream")


def refusal(error: Error) -> Decision:
    """For a request that no rule is asked about."""
    decision = Decision("", "", Hits())
    decision.said = error.detail
    decision.error = error
    return decision


def weight(key: object) -> int:
    """Bytes of a `Head.key`, about: numbers of lines, or the fields that rules look at."""
    if not isinstance(key, tuple):
        return 0
    return sum(8 if not isinstance(part, tuple) else 200 + sum(map(len, part)) for part in key)


class Port(AtPort):
    """A listener as its connections and requests know it."""

    routing: Routing
    networks: Networks
    """Whose claims are believed (`options.trusted`)."""
    explained: Networks
    """Whose `x-carrier-explain` is heeded, beside those of this machine (`options.explain`)."""
    forwarded: bool
    tells: bool = False
    """Answers tell more than the upstream's own (`options.answer_id`, `options.server_timing`)."""
    keeps_claims: bool
    """What requests say of their way goes on as it came (`options.forwarding: keep`)."""
    limits: Limits
    header_timeout: float
    keepalive_timeout: float
    idle_timeout: float
    body_min_rate: float
    body_grace: float
    max_heads: float
    heads: int
    """Bytes of heads that are being read or are long, on all connections together, and how many they may be."""
    keeps_half_closed: bool
    """A client that has sent its end is still answered, however late (`options.half_close: keep`)."""
    calls: Calls
    """Calls of gRPC that have ended."""
    now: float
    """The monotonic time of the last tick: good enough for deadlines, free to read."""
    leaving: bool
    """The process is about to end: connections are closed after their answer."""
    certificates: ServerTls | None
    protocols: frozenset[str]
    """Versions that are spoken: h1, h2 (`options.protocols`)."""
    both: Any
    """What connections of HTTP/2 share (listeners/http/h2.py)."""

    def too_many_heads(self) -> Error:
        """For a head that there is no room for (`options.max_heads`)."""
        detail = f"heads of more than {self.max_heads:g} bytes on all connections of this port together (options.max_heads)"
        return Error("headers-too-large", detail, "downstream")

    def told(self, session: Session, head: Head) -> bytes:
        """Those lines, of an answer's head."""
        return b""

    def came(self, connection: Any) -> bool:
        """A connection may speak HTTP; False: there are too many, and all are being used."""
        raise NotImplementedError


def rewritten(head: Head, decision: Decision) -> Head:
    """The head with the rule's rewrites of /HTTP/method, /HTTP/url/path and /HTTP/headers applied to what is sent on. What cannot be sent
    (the configuration's warnings tell, carrier/config/findings.py) is left as it came, and all else is done."""
    if not decision.rewrite or not any(
        change.path.strip("/").startswith("HTTP") or not change.path.strip("/") for change in decision.rewrite
    ):
        return head
    before: dict[str, Any] = {"HTTP": head.metadata()}
    after = before
    for change in decision.rewrite:
        after = rewrite_at(after, change.path, change.value)
    old, new = before["HTTP"], after.get("HTTP") if isinstance(after, dict) else None
    if not isinstance(new, dict):
        return head
    headers, wanted = old["headers"], new.get("headers")
    fields: dict[bytes, bytes | None] = {}
    if isinstance(wanted, dict):
        fields = {text_bytes(n): None for n in headers if n not in wanted}
        fields |= {text_bytes(n).lower(): None if v is None else text_bytes(v) for n, v in wanted.items() if headers.get(n, MISSING) != v}
        fields = {name: value for name, value in fields.items() if not rewritable(name, value)}
    url, method = new.get("url"), new.get("method")
    path = url.get("path") if isinstance(url, dict) else None
    target = target_of(text_bytes(path)) if path is not None and path != old["url"]["path"] else None
    changed = text_bytes(method) if method is not None and method != old["method"] else b""
    if not TOKEN.fullmatch(changed):
        changed = b""
    return rewrite(head, method=changed, target=target, fields=fields) if fields or target or changed else head
