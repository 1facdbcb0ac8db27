"""Who may call the REST API: every call passes `Gate.admit` before anything else looks at it.

Three kinds of callers. `unix`: the peer of a unix socket, whose user must be ours or root, as the kernel says (SO_PEERCRED, unix(7)).
`loopback` and `remote`: over TCP. With a token file or a client CA every TCP caller must show a bearer token (RFC 6750 section 2.1) or
a verified certificate; without either, remote callers are served only under `--insecure-admin`.

A browser on the same machine is a caller too, led by whatever page is open in it: so TCP calls are checked for a Host that DNS
rebinding could not bring here, for Origin and Sec-Fetch-Site, and for the content types of HTML forms. There is no CORS. A call that a
proxy passed on (perhaps we ourselves, through a cluster that leads to our own address) needs credentials, wherever it comes from.

Pure but for the token file, which is looked at when it changes: facts in, an Error or nothing out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from carrier import files
from carrier.admin import owner, page
from carrier.core.address import is_loopback
from carrier.errors import ConfigError, Error, Problem
from carrier.hops.certificates import ServerTls
from carrier.hops.unixsocket import credentials

if TYPE_CHECKING:
    from carrier.core.session import Session

HEALTH = ("/healthz", "/readyz", "/startupz")
"""Paths that everybody may read: a kubelet has no token and no name for us."""
FORMS = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")
"""Content types that a page may send anywhere without being asked (Fetch standard, CORS-safelisted request headers)."""
FORWARDED = ("x-forwarded-for", "forwarded", "via")
LEAST = 16
"""Characters of a token: shorter ones can be guessed."""
LONGEST = 1024 * 1024
"""Bytes of a file of tokens."""
PEERS = 1024
"""Remote peers whose rate is remembered."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of the API (DESIGN section 8). body: bytes; total: bytes of the whole configuration; depth: levels; request_timeout:
    seconds to send a request; connections: of each of its listeners; writes, burst: writes a second of one remote peer, after a
    burst; 0 means no limit of that kind."""

    body: int = 1024 * 1024
    total: int = 64 * 1024 * 1024
    depth: int = 32
    objects: int = 1_000_000
    request_timeout: float = 5.0
    connections: int = 128
    writes: float = 20.0
    burst: int = 100

    def most(self, path: str) -> int:
        """Bytes of a body that is sent to this path. A whole configuration may be as large as `total` allows, so that what is dumped can be
        put in force again; unless `body` was made smaller than it is by default."""
        whole = path.rstrip("/").endswith(("/config", "/validate")) and self.body >= Limits().body
        return (self.total or 1 << 40) if whole else self.body


class Caller(NamedTuple):
    """What is known of whoever calls. text: who, for the audit line; local: the address that was called; peer, at:
    both ends of a TCP connection; certificate: verified by the
    API's client CA."""

    kind: Literal["unix", "loopback", "remote"]
    text: str
    host: str = ""
    local: str = ""
    uid: int = -1
    pid: int = -1
    peer: tuple[str, int] = ("", 0)
    at: tuple[str, int] = ("", 0)
    certificate: bool = False


ROLE = re.compile(r"|privileged|read|user=[^\s#]+")
"""What may stand behind a token."""


class Tokens:
    """Bearer tokens of a file: one a line, `NAME TOKEN`, `NAME TOKEN ROLE` or `TOKEN`, `#` begins a comment. Only their hashes are kept.
    Nobody but its owner may read the file. Roles: `privileged` (all, also what reaches files, commands and sockets of this machine), `read`
    (changes nothing), `user=USER` (changes that user's bridges and nothing else).

    Raises ConfigError when the file cannot be read, has no token or one that is too short; later, when it has changed and is not
    good any more, the tokens known stay in force, and `say` is told why, once.
    """

    def __init__(self, path: str, say: Callable[[str], object] = lambda text: None) -> None:
        self.path = path
        self.say = say
        self.failure = ""
        self.privileged: frozenset[bytes] = frozenset()
        """Hashes of the tokens that have the right to what is privileged."""
        self.roles: dict[bytes, str] = {}
        """Hash of a token -> `read` or `user=...`."""
        self.known: list[tuple[str, bytes]] = []
        self.stamp = self._read()

    def _read(self) -> files.Stamp:
        try:
            data, stamp = files.read_now(self.path, LONGEST, alone=True)
            lines = data.decode().splitlines()
        except (files.Unreadable, UnicodeDecodeError) as exc:
            raise _bad_file(self.path, str(exc) if isinstance(exc, files.Unreadable) else "not UTF-8") from None
        known, privileged, roles = [], set(), {}
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            token = words[0] if len(words) == 1 else words[1]
            if len(words) > 3 or not ROLE.fullmatch("".join(words[2:])) or len(token) < LEAST:
                text = (
                    f"line {number}: expected NAME TOKEN, or TOKEN, of {LEAST} characters or more; behind it privileged, read or user=USER"
                )
                raise _bad_file(self.path, text)
            known.append((words[0] if len(words) > 1 else f"token-{number}", _digest(token)))
            if words[2:] == ["privileged"]:
                privileged.add(known[-1][1])
            elif len(words) == 3:
                roles[known[-1][1]] = words[2]
        if not known:
            raise _bad_file(self.path, "there is no token in it")
        self.known, self.privileged, self.roles = known, frozenset(privileged), roles
        return stamp

    def refresh(self) -> None:
        """Read the file again if it has changed. Never raises."""
        failure = ""
        try:
            if files.stamp(self.path) != self.stamp:
                self.stamp = self._read()
        except ConfigError as error:
            failure = error.detail
        if failure and failure != self.failure:
            self.say(f"the tokens known stay in force: {failure}")
        self.failure = failure

    def privileged_names(self) -> list[str]:
        return [name for name, digest in self.known if digest in self.privileged]

    def is_privileged(self, presented: str) -> bool:
        return _digest(presented) in self.privileged

    def role(self, presented: str) -> str:
        """`read`, `user=...`, or nothing: what a token is bound to."""
        return self.roles.get(_digest(presented), "")

    def find(self, presented: str) -> str | None:
        """The name of a token, or None. Takes the same time whichever it is: all are compared, by their hashes."""
        digest = _digest(presented)
        found = None
        for name, known in self.known:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _bad_file(path: str, reason: str) -> ConfigError:
    return ConfigError(Problem(f"cannot use {path}: {reason}"))


def certificates(certificate: str, key: str | None, ca: str | None, optional: bool = False) -> ServerTls:
    """TLS for the API's TCP addresses, from files that are read again when they change. ca: whose certificates clients must show
    (optional: may); None: none are asked for.

    Raises ConfigError when a file cannot be used.
    """
    raw: dict[str, Any] = {"certificate": certificate, "key": key or certificate}
    if ca is not None:
        raw |= {"ca": ca, "client_auth": "optional" if optional else "required"}
    try:
        return ServerTls(raw, alpn=("http/1.1",))
    except ConfigError as error:
        raise ConfigError(*(Problem(f"cannot use the API's certificate: {problem.message}") for problem in error.problems)) from None


def server_tls(certificate: str, key: str | None, ca: str | None, optional: bool = False) -> ssl.SSLContext:
    """The context of these files, as they are now. Raises ConfigError."""
    return certificates(certificate, key, ca, optional).entries[0]


class Gate:
    """The checks of one process. tokens, tls: what locks it; insecure: remote callers need nothing; names: host names that it is called
    by, beside its addresses; trust_loopback: uid or none; clock: monotonic seconds."""

    def __init__(
        self,
        limits: Limits | None = None,
        tokens: Tokens | None = None,
        tls: ServerTls | ssl.SSLContext | None = None,
        insecure: bool = False,
        names: tuple[str, ...] = (),
        trust_loopback: str = "uid",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.tokens = tokens
        self.certificates = tls if isinstance(tls, ServerTls) else None
        self.context = None if isinstance(tls, ServerTls) else tls
        self.insecure = insecure
        self.names = frozenset(name.lower() for name in names)
        self.trust_loopback = trust_loopback
        """"uid": a caller on loopback whose socket is our own user's or root's has shown who it is; "none": it has not."""
        self.clock = clock
        self.page = False
        """Is there a page for browsers?"""
        self.pid = os.getpid()
        """Whose calls are nobody's: what comes from our own process came through one of its clusters."""
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Remote peer -> (writes left of its burst, when that was counted); the one used longest ago goes first."""
        self.refused: dict[str, int] = {}
        """Calls refused, by kind of error."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The API's own TLS, as it is at the moment."""
        return self.certificates.entries[0] if self.certificates is not None else self.context

    def secure(self, listener: Any) -> None:
        """Give a listener the API's TLS, if it has one."""
        if self.tls is not None:
            listener.tls, listener.certificates = self.tls, self.certificates

    def secures(self, listener: Any) -> bool:
        """Has it that one? Only its certificates count."""
        own = listener.certificates
        return own is self.certificates if self.certificates is not None else self.context is not None and listener.tls is self.context

    @property
    def locked(self) -> bool:
        """Must TCP callers say who they are?"""
        return self.tokens is not None or self.asks_certificates

    def trusted(self) -> dict[str, Any]:
        """Who may have what is privileged, for people."""
        return {
            "unix socket": "our own user and root",
            "loopback": "our own user and root" if self.trust_loopback == "uid" else "nobody without a token",
            "tokens": self.tokens.privileged_names() if self.tokens is not None else [],
            "certificates": self.asks_certificates,
        }

    @property
    def asks_certificates(self) -> bool:
        return self.tls is not None and self.tls.verify_mode != ssl.CERT_NONE

    def may_open(self, tls: bool = True) -> bool:
        """May the API be reached from other machines? tls: over a listener of ours, which asks for certificates."""
        return self.insecure or self.tokens is not None or (self.asks_certificates and tls)

    def admit(self, caller: Caller, method: str, path: str, headers: Mapping[str, str]) -> str:
        """Who calls, for the audit line. headers: names in lower case.

        Raises Error: "forbidden" (another user, a page of another site, a foreign Host), "unauthorized", "too-many-requests",
        "unsupported-media-type" (a form).
        """
        if path in HEALTH and method in ("GET", "HEAD"):
            return caller.text
        try:
            if self.page and page.wants(method, path, headers):
                return self._admit_reader(caller, path, headers)
            return self._admit(caller, method, headers)
        except Error as error:
            self.refused[error.kind] = self.refused.get(error.kind, 0) + 1
            raise

    def _admit_reader(self, caller: Caller, path: str, headers: Mapping[str, str]) -> str:
        """Who wants the page's files, which hold nothing of ours: everybody who could log in, and who follows a link to it."""
        if caller.kind == "unix":
            return self._admit(caller, "GET", headers)
        if (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document"):
            headers = {**headers, "sec-fetch-site": "none"}
        if path == page.SCRIPTS and "origin" in headers:
            # Scripts that are modules bring it, also to a proxy that does not pass Host on: without its script the page could not say so.
            headers = {name: value for name, value in headers.items() if name != "origin"}
        self._check_page(caller, headers, self.locked)
        if caller.kind == "remote" and not self.may_open():
            self._check_anonymous(caller, headers)
        return caller.text

    def _admit(self, caller: Caller, method: str, headers: Mapping[str, str]) -> str:
        if caller.kind == "unix":
            if caller.pid == self.pid:
                raise Error("forbidden", "this call came from the proxy itself, through one of its clusters", "downstream")
            if caller.uid not in (os.geteuid(), 0):
                raise Error("forbidden", f"user {caller.uid} may not call the API of user {os.geteuid()}", "downstream")
            return caller.text
        known = self._known(caller, headers)
        self._check_page(caller, headers, known is not None)
        if known is None:
            self._check_anonymous(caller, headers)
        if method not in ("GET", "HEAD"):
            # Only POST may carry a form without asking first (Fetch, CORS-safelisted requests); l7mp takes any type with DELETE.
            form = headers.get("content-type", "").partition(";")[0].strip().lower()
            if method == "POST" and form in FORMS:
                detail = f"Content-Type {form} is a form's, which any page may send; send application/json or application/yaml"
                raise Error("unsupported-media-type", detail, "downstream")
            if caller.kind == "remote":
                self._check_rate(caller)
        return f"{known} at {caller.text}" if known else caller.text

    # ------------------------------------------------------------------ who

    def standing(self, caller: Caller, headers: Mapping[str, str]) -> Callable[[], Awaitable[str]] | None:
        """None when the caller may have what is privileged: our own user on the unix socket, a certificate, a token with that right. Else
        what asks, when it matters, why it may not: the kernel may know it for our own user's. Loopback alone shows nothing."""
        if caller.kind == "unix" or caller.certificate:
            return None
        name = self._known(caller, headers)
        if name is not None and self.tokens is not None and self.tokens.is_privileged(_bearer(headers)):
            return None
        return partial(self._why_not, caller, name)

    def role(self, caller: Caller, headers: Mapping[str, str]) -> str:
        """What the caller's token binds him to (see Tokens); nothing: he may change what he has the standing for."""
        if caller.kind == "unix" or caller.certificate or self.tokens is None:
            return ""
        return self.tokens.role(_bearer(headers))

    async def _why_not(self, caller: Caller, name: str | None) -> str:
        if caller.kind == "loopback" and self.trust_loopback == "uid":
            found = await asyncio.get_running_loop().run_in_executor(None, owner.of, caller.peer, caller.at, self.pid == os.getpid())
            if found is not None and found in (os.geteuid(), 0):
                return ""
        shown = f"the token of {name} has not that right" if name is not None else "this caller has not shown who it is"
        return f'{shown}: call over the unix socket, or with a token that is "privileged"'

    def _known(self, caller: Caller, headers: Mapping[str, str]) -> str | None:
        """The name of a caller who has proved it."""
        if caller.certificate:
            return "certificate"
        token = _bearer(headers)
        if self.tokens is None or not token:
            return None
        self.tokens.refresh()
        return self.tokens.find(token)

    def _check_anonymous(self, caller: Caller, headers: Mapping[str, str]) -> None:
        if self.locked:
            shown = "authorization" in headers
            raise Error("unauthorized", "the token is not known" if shown else "the API needs a bearer token or a client certificate")
        if caller.kind == "remote" and not self.insecure:
            raise Error("forbidden", "the API is open to other machines only with a token file or a client CA", "downstream")
        passed = next((name for name in FORWARDED if name in headers), None)
        if passed and not self.insecure:
            raise Error("forbidden", f"this call came through a proxy ({passed}): the API then needs a token", "downstream")

    # ------------------------------------------------------------------ browsers

    def _check_page(self, caller: Caller, headers: Mapping[str, str], known: bool) -> None:
        host = headers.get("host", "")
        if host and not self._is_ours(_name_of(host), caller, known):
            raise Error("forbidden", f"Host {host[:80]!r} is no name of this API", "downstream")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin"):
            raise Error("forbidden", f"a page of another site calls (Sec-Fetch-Site: {site[:20]})", "downstream")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower() and not (known and site == "same-origin"):
            hint = f"; a proxy in front has to pass its Host on ({host[:80]} came)" if known else ""
            raise Error("forbidden", f"pages of {origin[:80]!r} may not call this API{hint}", "downstream")

    def _is_ours(self, name: str, caller: Caller, known: bool) -> bool:
        """A name that only we have: loopback, the address that was called, a configured name. DNS rebinding brings foreign names here,
        never addresses; so whoever is known may use any address that leads to us."""
        if name == "localhost" or name in self.names or is_loopback(name) or name == caller.local:
            return True
        return (known or self.insecure) and _is_address(name)

    # ------------------------------------------------------------------ how often

    def _check_rate(self, caller: Caller) -> None:
        """A token bucket per address."""
        rate, burst = self.limits.writes, self.limits.burst
        if not rate:
            return
        now = self.clock()
        left, at = self.buckets.pop(caller.host, (float(burst), now))
        left = min(float(burst), left + (now - at) * rate)
        if left >= 1:
            left -= 1
            self._remember(caller.host, left, now)
            return
        self._remember(caller.host, left, now)
        raise Error("too-many-requests", f"more than {rate:g} writes a second after {burst} at once", "downstream")

    def _remember(self, host: str, left: float, now: float) -> None:
        self.buckets[host] = left, now
        if len(self.buckets) > PEERS:
            self.buckets.popitem(last=False)


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _name_of(host: str) -> str:
    """The name or address of a Host field, without its port."""
    if host[:1] == "[":
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def caller_of(session: Session, gate: Gate) -> Caller:
    """Who is at the other end of a session."""
    source: Any = session.source
    transport = source.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid = credentials(sock)
        return Caller("unix", f"unix uid={uid} pid={pid}", uid=uid, pid=pid)
    host, port = source.peer[:2]
    at = source.local[:2]
    certificate = gate.secures(session.listener) and transport is not None and bool(transport.get_extra_info("peercert"))
    kind: Literal["loopback", "remote"] = "loopback" if is_loopback(host) else "remote"
    return Caller(
        kind, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, at[0], peer=(host, port), at=at, certificate=certificate
    )
