"""`tls:` blocks: what they may say, their files, read again when they change, and the contexts made of them.

Each entry of a listener's block has a context of its own (`Made`), chosen by the name that a client asks for *before* the handshake
(carrier/hops/tls.py): OpenSSL takes certificate and key of a context that is changed in mid-handshake, but not who must show a
certificate, nor by whom it must be signed. And sessions are resumed within a context only, so that none carries a client's rights to
another name or past a change of the authority. An entry whose settings and files are as they were keeps its context, also when its
listener is replaced; any other gets a new one.

A file that is no good any more (unreadable, a key that does not fit, a certificate that is not good at this moment) leaves the old one in
force; `renew` says so in the log, `report` in the status, and metrics have both.
"""

from __future__ import annotations

import hashlib
import json
import math
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from carrier import files
from carrier.errors import ConfigError, Problem
from carrier.hops.validity import validity
from carrier.log import rfc3339

if TYPE_CHECKING:
    from carrier.core.env import Env
    from carrier.wire.hello import Hello

SERVER_FIELDS = ("certificate", "key", "ca", "client_auth", "sni", "alpn", "self_signed", "passthrough")
CLIENT_FIELDS = ("sni", "verify", "ca", "certificate", "key", "alpn")
FILES = ("certificate", "key", "ca")
LARGEST = 1 << 20
"""Bytes of a file, at most."""
Stamp = tuple[tuple[str, files.Stamp], ...]
"""What a set of files looked like, by name."""


def check_server(raw: object, path: str, spoken: Sequence[str] = ()) -> list[Problem]:
    """Everything wrong with a listener's `tls` by its form; files are looked at when the listener is made. spoken: what may be agreed on
    inside, by its name in ALPN; none: anything."""
    if raw is None:
        return []
    if isinstance(raw, list) and raw:
        return [problem for i, one in enumerate(raw) for problem in _check_certificate(one, f"{path}[{i}]", spoken)]
    if isinstance(raw, Mapping) and raw.get("passthrough") is True:
        return [] if len(raw) == 1 else [Problem("what is passed through is not decrypted: no other field makes sense", path)]
    return _check_certificate(raw, path, spoken)


def _check_certificate(raw: object, path: str, spoken: Sequence[str]) -> list[Problem]:
    found = _members(raw, path, SERVER_FIELDS)
    if not isinstance(raw, Mapping):
        return found
    own = raw.get("self_signed") is True
    found += [Problem(f"needs {name!r}", path, seen=", ".join(raw)) for name in ("certificate", "key") if name not in raw and not own]
    names = raw.get("sni", [])
    if not isinstance(names, (list, str)) or not all(isinstance(name, str) for name in names):
        found.append(Problem("expected a list of names", f"{path}.sni", seen=repr(names), allowed='["example.org", "*.example.org"]'))
    if raw.get("client_auth") and "ca" not in raw:
        found.append(Problem("client_auth needs 'ca': whose certificates are good", path, seen=", ".join(raw)))
    if raw.get("client_auth") not in (None, False, True, "optional", "required"):
        found.append(
            Problem("unknown client_auth", f"{path}.client_auth", seen=repr(raw["client_auth"]), allowed="required, optional, false")
        )
    return found + _check_alpn(raw, path, spoken)


def _check_alpn(raw: Mapping[str, Any], path: str, spoken: Sequence[str]) -> list[Problem]:
    """`alpn`: the names of protocols (RFC 7301 section 3.1), each of 1 to 255 bytes, the best one first."""
    names = raw.get("alpn", [])
    good = isinstance(names, list) and all(isinstance(name, str) and name.isascii() and 0 < len(name) < 256 for name in names)
    if not good:
        return [Problem("expected a list of protocols", f"{path}.alpn", seen=repr(names), allowed='["h2", "http/1.1"]')]
    other = [name for name in names if spoken and name not in spoken]
    return [Problem("not spoken here", f"{path}.alpn", seen=", ".join(other), allowed=", ".join(spoken))] if other else []


def check_client(raw: object, path: str, spoken: Sequence[str] = ()) -> list[Problem]:
    """Everything wrong with a cluster's `tls` by its form. spoken: as of check_server."""
    if raw is None or isinstance(raw, bool):
        return []
    found = _members(raw, path, CLIENT_FIELDS)
    if isinstance(raw, Mapping):
        if not isinstance(raw.get("verify", True), bool):
            found.append(Problem("expected true or false", f"{path}.verify", seen=repr(raw["verify"])))
        if ("key" in raw) != ("certificate" in raw):
            found.append(Problem("'certificate' and 'key' go together", path, seen=", ".join(raw)))
        found += _check_alpn(raw, path, spoken)
    return found


def _members(raw: object, path: str, allowed: tuple[str, ...]) -> list[Problem]:
    words = ", ".join(allowed)
    if not isinstance(raw, Mapping):
        return [Problem(f"expected an object, got {raw!r}", path, seen=repr(raw), allowed=words)]
    found = [Problem(f"unknown field {name!r}", f"{path}.{name}", seen=repr(name), allowed=words) for name in raw if name not in allowed]
    found += [
        Problem("expected the name of a PEM file", f"{path}.{name}", seen=repr(raw[name]))
        for name in FILES
        if name in raw and (not isinstance(raw[name], str) or not raw[name])
    ]
    if allowed is CLIENT_FIELDS and not isinstance(raw.get("sni", ""), str):
        found.append(Problem("expected a name", f"{path}.sni", seen=repr(raw["sni"])))
    return found


class Files:
    """What both sides share: contexts made of files, made again when the files change.

    failures: how often files had changed and were no good. trouble: what is wrong at this moment, empty when all is well.
    """

    def __init__(self, names: list[str]) -> None:
        self.files = names
        self.lock = threading.Lock()
        self.failures = 0
        self.bad = ""
        """What was wrong with the files when they were last read."""
        self.stamp = self.tried = self._look()

    def load(self) -> None:
        """Make the contexts anew; what is no good leaves the old one. Raises ConfigError with every reason."""
        raise NotImplementedError

    def refresh(self) -> bool:
        """Read files that have changed; True when new ones are in force. A bad one leaves the old in force and is counted once."""
        with self.lock:  # who asks while another thread looks hears what that one found
            now = self._look()
            if now in (self.stamp, self.tried):
                return False
            self.tried = now
            try:
                self.load()
            except ConfigError as error:
                self.failures += 1
                self.bad = error.detail
                return False
            self.stamp = now
            self.bad = ""
            return True

    def _look(self) -> Stamp:
        """What the files look like at this moment."""
        return tuple((name, files.stamp(name)) for name in self.files)

    @property
    def trouble(self) -> str:
        return self.bad or next((text for text in map(_outdated, self.in_force()) if text), "")

    def in_force(self) -> list[Made]:
        """What the files held that is in force."""
        raise NotImplementedError


def renew(tls: ServerTls | ClientTls, env: Env, owner: str) -> None:
    """Called once a second: read files that have changed, and say in the log what came of it. owner: "listener/L", "cluster/C". All who ask
    in one turn of the loop are looked at in one thread, which a slow disk may hold up; the loop does not wait for it."""
    env.renewing.append((tls, owner))
    if len(env.renewing) == 1:
        env.loop.call_soon(_look_at, env)


def _look_at(env: Env) -> None:
    asked, env.renewing = env.renewing, []
    if env.looking is None:
        env.looking = env.loop.create_task(renewed(env, asked))
        env.looking.add_done_callback(lambda _: setattr(env, "looking", None))


async def renewed(env: Env, asked: Iterable[tuple[ServerTls | ClientTls, str]]) -> None:
    """Look at these once, and say what came of it."""
    asked = list(asked)
    found = await env.loop.run_in_executor(None, lambda: [tls.refresh() for tls, _ in asked])
    for (tls, owner), fresh in zip(asked, found, strict=True):
        _tell(tls, env, owner, fresh)


def _tell(tls: ServerTls | ClientTls, env: Env, owner: str, fresh: bool) -> None:
    trouble = tls.trouble
    if trouble != tls.told:
        tls.told = trouble
        if trouble:
            env.warn("the old certificate stays in force" if tls.bad else "a certificate in force is not good", of=owner, reason=trouble)
        else:
            env.note("the certificates are good again", of=owner)
    elif fresh:
        env.note("certificates were read again", of=owner)


def report(tls: ServerTls | ClientTls) -> dict[str, Any]:
    """For people and programs: what is wrong, how often files were no good, until when each certificate is good."""
    return {
        "trouble": tls.trouble,
        "failures": tls.failures,
        "certificates": [
            {"names": list(made.names), "file": made.file, "expires": None if made.until == math.inf else rfc3339(made.until, "seconds")}
            for made in tls.in_force()
            if made.file
        ],
    }


def _outdated(made: Made) -> str:
    """Why a certificate is not good at this moment, or nothing."""
    now = time.time()
    if now > made.until:
        return f"{made.file} has expired on {rfc3339(made.until, 'seconds')}"
    return f"{made.file} is good from {rfc3339(made.since, 'seconds')} on only" if now < made.since else ""


class Made(ssl.SSLContext):
    """A context, and what it was made of: file and validity (seconds since 1970) of its certificate, its names, and who is checked how.

    same: equal for two that were made of the same settings and contents. authority: what the file of client CAs held, "" without one.
    """

    same = file = authority = ""
    since, until = 0.0, math.inf
    names: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()

    @staticmethod
    def named(tls: Any, name: str | None, _context: ssl.SSLContext) -> int | None:
        """Called for each hello of a handshake, also when the client names nobody. A second hello (RFC 8446 section 4.1.2) that names
        somebody else would be served by the entry of the first."""
        if getattr(tls, "asked_for", name) != name:
            return ssl.ALERT_DESCRIPTION_ILLEGAL_PARAMETER
        tls.asked_for = name
        return None

    def checked(self, other: Made) -> bool:
        """Was a client whose handshake was made with this one checked as the other one would have it?"""
        if other is self or other.verify_mode == ssl.CERT_NONE:
            return True
        return self.authority == other.authority and self.verify_mode >= other.verify_mode


_IN_USE: WeakValueDictionary[str, Made] = WeakValueDictionary()
"""Contexts of listeners by `same`, for as long as one of them is in force or has connections: those that are made again are found here."""


class ServerTls(Files):
    """The server's side of a `tls` block. alpn: what is offered where an entry does not say (RFC 7301). tickets: sessions may be resumed;
    a client that writes and leaves would answer them with a reset, behind which what it wrote is easily lost.

    Raises ConfigError with every reason.
    """

    def __init__(self, raw: Any, path: str = "spec.tls", alpn: tuple[str, ...] = (), tickets: bool = True) -> None:
        self.raw: list[Mapping[str, Any]] = raw if isinstance(raw, list) else [raw]
        self.path = path
        self.alpn = alpn
        self.tickets = tickets
        self.told = ""
        """The trouble that the log knows of."""
        self.entries: list[Made] = []
        self.names: dict[str, Made] = {}
        super().__init__([str(entry[name]) for entry in self.raw for name in FILES if name in entry])
        self.load()
        self.guarded = any(entry.verify_mode != ssl.CERT_NONE for entry in self.entries)
        """Some entry asks for certificates."""

    def load(self) -> None:
        problems: list[Problem] = []
        entries: list[Made] = []
        for i, raw in enumerate(self.raw):
            old = self.entries[i] if self.entries else None
            try:
                entries.append(self._make(raw, old))
            except ConfigError as error:
                problems += [Problem(p.message, f"{self.path}[{i}]" if len(self.raw) > 1 else self.path) for p in error.problems]
                if old is not None:
                    entries.append(old)
        if len(entries) == len(self.raw):
            self._use(entries)
        if problems:
            raise ConfigError(*problems)

    def _use(self, entries: list[Made]) -> None:
        self.entries = entries
        self.names = {}
        for entry in entries:
            for name in entry.names:
                self.names.setdefault(name, entry)

    def _make(self, raw: Mapping[str, Any], old: Made | None) -> Made:
        own = raw.get("self_signed") is True
        if own and old is not None and "ca" not in raw:
            return old
        held = {} if own else _contents(raw, "certificate", "key")
        if "ca" in raw:
            held |= _contents(raw, "ca")
        same = _same([raw, self.alpn, self.tickets], held)
        found = None if own else _IN_USE.get(same)
        return found if found is not None else self._fresh(raw, old, held, same)

    def _fresh(self, raw: Mapping[str, Any], old: Made | None, held: dict[str, bytes], same: str) -> Made:
        """A context of these contents. Raises ConfigError."""
        made = Made(ssl.PROTOCOL_TLS_SERVER)
        made.same = same
        names = raw.get("sni") or []
        made.names = tuple(name.lower().rstrip(".") for name in ([names] if isinstance(names, str) else names))
        made.alpn = tuple(raw.get("alpn") or self.alpn)
        if made.alpn:
            made.set_alpn_protocols(list(made.alpn))
        if not self.tickets:
            made.num_tickets = 0
        if "certificate" in held:
            _load_chain(made, raw, held)
            made.file = str(raw["certificate"])
            made.since, made.until = validity(held["certificate"])
        else:
            load_self_signed(made)
        if "ca" in held:
            _load_ca(made, str(raw["ca"]), held["ca"])
            made.authority = hashlib.sha256(held["ca"]).hexdigest()
        auth = raw.get("client_auth", "ca" in raw)
        made.verify_mode = ssl.CERT_NONE if not auth else ssl.CERT_OPTIONAL if auth == "optional" else ssl.CERT_REQUIRED
        made.sni_callback = made.named
        wrong = _outdated(made)
        if wrong and old is not None:
            raise ConfigError(Problem(wrong))
        if made.file:
            _IN_USE[same] = made
        return made

    def offer(self, alpn: tuple[str, ...]) -> None:
        """From the next look at the files on this is what is offered where an entry does not say (`renew`)."""
        if alpn != self.alpn:
            self.alpn = alpn
            self.stamp = self.tried = ()

    def find(self, name: str) -> Made:
        """The entry for a client that asks for this name (RFC 6066 section 3); the first is for those that name none of the others."""
        wanted = name.lower().rstrip(".")
        return self.names.get(wanted) or self.names.get("*." + wanted.partition(".")[2]) or self.entries[0]

    def misdirected(self, tls: Any, host: str) -> bool:
        """Is a request for this host (a Host field, RFC 9110 section 7.2) on a connection whose handshake did not check what the host's
        entry demands? Without a host it is for whom the handshake was."""
        made = tls.context
        name = host.rpartition("]")[0] or host.partition(":")[0]
        return bool(name) and isinstance(made, Made) and not made.checked(self.find(name))

    def speaks(self, hello: Hello) -> bool:
        """Is there something in this hello that the entry for it would speak? One that names no protocols takes any."""
        return not hello.alpn or any(name in hello.alpn for name in self.find(hello.sni).alpn)

    def in_force(self) -> list[Made]:
        return self.entries


class ClientTls(Files):
    """The client's side: `true` or `{sni, verify, ca, certificate, key, alpn}`. alpn: asked for where it does not say.

    Raises ConfigError with every reason.
    """

    def __init__(self, raw: Any, path: str = "spec.tls", alpn: tuple[str, ...] = ()) -> None:
        self.raw: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
        self.alpn = tuple(self.raw.get("alpn") or alpn)
        self.path = path
        self.told = ""
        super().__init__([str(self.raw[name]) for name in FILES if name in self.raw])
        self.context: Made
        self.load()

    def load(self) -> None:
        try:
            self.context = self._make(getattr(self, "context", None))
        except ConfigError as error:
            raise ConfigError(*(Problem(p.message, self.path) for p in error.problems)) from None

    def _make(self, old: Made | None) -> Made:
        held = _contents(self.raw, *FILES)
        same = _same([], held)
        if old is not None and old.same == same:
            return old
        made = Made(ssl.PROTOCOL_TLS_CLIENT)
        made.same = same
        if not self.raw.get("verify", True):
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        elif "ca" in held:
            _load_ca(made, str(self.raw["ca"]), held["ca"])
        else:
            made.load_default_certs()
        if "certificate" in held:
            _load_chain(made, self.raw, held)
            made.file = str(self.raw["certificate"])
            made.since, made.until = validity(held["certificate"])
        if self.alpn:
            made.set_alpn_protocols(list(self.alpn))
        wrong = _outdated(made)
        if wrong and old is not None:
            raise ConfigError(Problem(wrong))
        return made

    def name(self, host: str) -> str:
        """The name to ask for, and to check: as configured, else the endpoint's own."""
        return str(self.raw.get("sni") or host.strip("[]"))

    def in_force(self) -> list[Made]:
        return [self.context]


def _same(settings: list[Any], held: Mapping[str, bytes]) -> str:
    """Equal for equal settings and contents."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, data in sorted(held.items()):
        digest.update(f"{name}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _contents(raw: Mapping[str, Any], *fields: str) -> dict[str, bytes]:
    """What the files of these fields hold. Raises ConfigError with every reason."""
    held = {}
    bad = []
    for name in fields:
        if name in raw:
            try:
                held[name] = files.read(str(raw[name]), LARGEST)
            except files.Unreadable as exc:
                bad.append(Problem(f"cannot read {raw[name]}: {exc}"))
    if bad:
        raise ConfigError(*bad)
    return held


def _load_chain(context: ssl.SSLContext, raw: Mapping[str, Any], held: Mapping[str, bytes]) -> None:
    try:
        with files.in_memory(held["certificate"]) as certificate, files.in_memory(held["key"]) as key:
            context.load_cert_chain(certificate, key, password=lambda: "")  # an encrypted key must not ask the terminal
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise ConfigError(Problem(f"{raw['certificate']} and {raw['key']} are no certificate and its key: {exc}")) from None


def _load_ca(context: ssl.SSLContext, file: str, data: bytes) -> None:
    try:
        with files.in_memory(data) as opened:
            context.load_verify_locations(opened)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(Problem(f"{file} has no certificates: {exc}")) from None


def load_self_signed(context: ssl.SSLContext) -> None:
    """Give a context a certificate of its own, made now and never written to a disk: for probes, which check nothing."""
    from carrier.hops.selfsigned import pem

    with files.in_memory(pem()) as file:
        context.load_cert_chain(file)


def describe(tls: Any) -> dict[str, Any]:
    """What a session's metadata says of a finished handshake, below /TLS."""
    found: dict[str, Any] = {"sni": getattr(tls, "asked_for", None) or "", "version": tls.version() or ""}
    alpn = tls.selected_alpn_protocol()
    if alpn:
        found["alpn"] = alpn
    certificate = tls.getpeercert()
    if certificate:
        found["client"] = {name: value for part in certificate.get("subject", ()) for name, value in part}
    return found


def server_of(spec: Mapping[str, Any], alpn: tuple[str, ...] = (), tickets: bool = True) -> ServerTls | None:
    """The TLS of a listener's spec; None without one, or when it is passed through. Raises ConfigError."""
    raw = spec.get("tls")
    if not raw or passes_through(spec):
        return None
    problems = check_server(raw, "spec.tls")
    if problems:
        raise ConfigError(*problems)
    return ServerTls(raw, alpn=alpn, tickets=tickets)


def passes_through(spec: Mapping[str, Any]) -> bool:
    """Are its sessions routed by SNI and not decrypted?"""
    raw = spec.get("tls")
    return isinstance(raw, Mapping) and cast("Mapping[str, Any]", raw).get("passthrough") is True


def client_of(spec: Mapping[str, Any], alpn: tuple[str, ...] = ()) -> ClientTls | None:
    """The TLS of a cluster's spec, or None. alpn: what is asked for where it does not say. Raises ConfigError."""
    raw = spec.get("tls")
    if raw is None or raw is False:
        return None
    problems = check_client(raw, "spec.tls")
    if problems:
        raise ConfigError(*problems)
    return ClientTls(raw, alpn=alpn)
