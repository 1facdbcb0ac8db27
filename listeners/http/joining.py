"""Join links: `GET /.carrier/join/NAME?token=TOKEN` gives a browser the cookie that a user bridge asks for, `/.carrier/leave` takes it.

A port has them by `options.join`; else these paths are the app's. The link has the bridge's token, as names can be guessed: without it, and
for a bridge that is not there, all links are answered alike (404). It joins whoever opens it, so no other page may open it unseen: what
a browser says of a request (Fetch Metadata, W3C) has to be a navigation of its own, from another site only by a click. What is fetched
ahead joins nobody. One goes on to `/`, or to a path of the same host (`?to=/cart`). Neither paths with a token nor these requests
reach anybody behind this port, or a log.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_to_bytes

from carrier import model
from carrier.core.cluster import Cluster
from carrier.core.decision import Decision, Hits
from carrier.core.stream import Replying, Stream
from carrier.rules.condition import Leaf
from carrier.rules.inputs import PAIRS
from carrier.rules.notation import compile_match
from carrier.wire.making import canned, rewrite

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.model import Bridge
    from carrier.wire.http import Head

JOIN, LEAVE = b"/.carrier/join/", b"/.carrier/leave"
DAY = 86_400
"""Seconds that a cookie is kept of a bridge without an end."""
NO_STORE = ((b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"))
COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")
"""RFC 6265 section 4.1.1, unquoted."""
LOCAL = re.compile(rb"/(?![/\\])[!-\[\]-~]*")
"""A path of the same host: neither //host nor /\\host, nor what a browser would drop or turn into a slash."""
EVERYBODYS = ("path", "host", "query", "source", "sni")
"""Kinds of conditions that a request may meet without a cookie."""
AHEAD = (b"sec-purpose", b"purpose", b"x-moz")

Answered = tuple["Head", bytes]


class Joining:
    """Join links of one listener. decision: of all requests for them."""

    def __init__(self, env: Env, listener: str) -> None:
        self.env = env
        self.listener = listener
        self.decision = Decision("", "", Hits())
        self.decision.cluster = Answers(self)
        self.decision.plain = True
        self.decision.said = "a join link of this port (options.join)"

    @staticmethod
    def takes(location: bytes) -> bool:
        """Is this path one of ours?"""
        return location.startswith(JOIN) or location.partition(b"?")[0] == LEAVE

    @staticmethod
    def onward(head: Head) -> Head:
        """The request as logs and lists of sessions see it."""
        return rewrite(head, target=head.path)

    def answer(self, source: Any) -> Answered:
        """What a request for one of these paths gets."""
        head = source.asked
        assert head is not None
        if head.method != b"GET":
            return _said(405, "a join link is opened: GET", (b"allow", b"GET"))
        if why := _unwanted(head):
            return _said(403, why)
        path, asked = head.path, dict(parse_qsl(head.query.decode("latin-1"), encoding="latin-1"))
        to = asked.get("to", "/").encode("latin-1", "replace")
        if not LOCAL.fullmatch(to):
            return _said(400, "'to' is a path of this host, such as /cart")
        secure = b"; Secure" if _is_secure(source, head) else b""
        if path == LEAVE:
            return _sent(to, [_cookie(name, "", 0, secure) for name in self._joined(source, head)])
        tokens = self.env.tokens
        bridge = tokens.bridge(self.listener, asked.get("token", "").encode("latin-1")) if tokens is not None else None
        if bridge is None or bridge.name.encode() != unquote_to_bytes(path.removeprefix(JOIN)):
            return _said(
                404,
                "no bridge has this link; all of it, with ?token=TOKEN, is told when a bridge is made, and good as long as it is",
            )
        cookies, why = cookies_of(bridge)
        if not cookies:
            return _said(409, f"a browser cannot join bridge {bridge.name}: {why}")
        age = DAY if bridge.expires is None else max(1, min(DAY * 366, int(bridge.expires - time.time())))
        return _sent(to, [_cookie(name, value, age, secure) for name, value in cookies.items()])

    def _joined(self, source: Any, head: Head) -> list[str]:
        """Names of the cookies by which who asks takes part in bridges of this port: whoever shows one knows it."""
        sent = set(PAIRS["cookie"](source.metadata(head)))
        bridges = self.env.tokens.bridges(self.listener) if self.env.tokens is not None else ()
        found = (pair for bridge in bridges for pair in cookies_of(bridge)[0].items())
        return list(dict.fromkeys(name for name, value in found if (name, value) in sent))


def cookies_of(bridge: Bridge) -> tuple[dict[str, str], str]:
    """The cookies that make a browser's requests the bridge's, of its first alternative that asks for no more; else none, and why."""
    spec = bridge.spec
    matches = [rule["match"] for rule in spec["rules"]] if "rules" in spec else [spec.get("match", [])]
    why = "its condition asks for no cookie"
    for match in matches:
        for conjunction in compile_match(match, strict=False).alternatives:
            cookies: dict[str, str] = {}
            for node in conjunction:
                if isinstance(node, Leaf) and node.source.kind == "cookie" and node.op == "test" and isinstance(node.want, str):
                    cookies[node.source.name] = node.want
                elif not isinstance(node, Leaf) or (node.source.kind not in EVERYBODYS and node.source.reads[:1] != (("HTTP", "method"),)):
                    why = f"it also asks for {node.text}, which a cookie does not give"
                    break
            else:
                if all(COOKIE_NAME.fullmatch(name) and COOKIE_VALUE.fullmatch(value) for name, value in cookies.items()):
                    if cookies:
                        return cookies, ""
                else:
                    why = "its cookie has characters that no cookie may have (RFC 6265)"
    return {}, why


def _unwanted(head: Head) -> str:
    """Why a request is none that its user has made: a browser says so of what it fetches ahead, embeds, or is sent to by other pages."""
    if any(b"prefetch" in (value := (head.get(name) or b"").lower()) or b"preview" in value for name in AHEAD):
        return "what is fetched ahead joins nobody"
    site, mode, dest = (head.get(b"sec-fetch-" + name) for name in (b"site", b"mode", b"dest"))
    if mode not in (None, b"navigate") or dest not in (None, b"document"):
        return "a join link is opened in a window, and not embedded"
    if site not in (None, b"none", b"same-origin") and head.get(b"sec-fetch-user") != b"?1":
        return "another site has led here: open the link yourself"
    return ""


def _is_secure(source: Any, head: Head) -> bool:
    """Did the browser come over TLS, to us or to a proxy in front that is believed?"""
    if source.origin.tls is not None:
        return True
    return source.origin.trusted and (head.get(b"x-forwarded-proto") or b"").strip().lower() == b"https"


def _cookie(name: str, value: str, age: int, secure: bytes) -> tuple[bytes, bytes]:
    pair = f"{name}={value}".encode("latin-1")
    return b"set-cookie", b"%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b" % (pair, age, secure)


def _said(status: int, text: str, *fields: tuple[bytes, bytes]) -> Answered:
    return canned(status, text, (*NO_STORE, *fields))


def _sent(to: bytes, cookies: list[tuple[bytes, bytes]]) -> Answered:
    return canned(303, "", ((b"location", to), *NO_STORE, *cookies))


class Answers(Cluster):
    """Who answers join links: no cluster of the configuration."""

    protocol = "join"
    virtual = True
    kind = "message"

    def __init__(self, joining: Joining) -> None:
        super().__init__(model.Cluster("(join)", {"protocol": "join"}), joining.env)
        self.joining = joining

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return AnswerStream(self.joining, session.source)


class AnswerStream(Replying):
    """What the session of such a request leads to."""

    __slots__ = ("joining", "source")

    def __init__(self, joining: Joining, source: Any) -> None:
        super().__init__()
        self.joining = joining
        self.source = source

    def end(self, trailer: Any = None) -> None:
        self.reply(*self.joining.answer(self.source))
