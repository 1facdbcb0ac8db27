"""Names looked up as the C library does it, by the event loop: /etc/hosts, then the name servers of /etc/resolv.conf (resolver(5)).

Why not the C library itself: it can only be called in a thread, a thread waits as long as a silent server makes it, so that any number
of threads is used up by as many names; and it tells neither how long an answer is good for nor where a service is. A second thread also
makes every system call of the process dearer, for as long as it is there. Here a question is a socket, and a silent server costs only those
who ask for a name that nobody else knows. What is lost are sources of the C library that are neither of the two (NIS, mDNS, plug-ins).

Both files are looked at when something is asked, once a second at most. `search`, `ndots`, `timeout`, `attempts` and `use-vc` are heeded.
Servers are asked in their order; one that has not answered after `HEDGE` seconds is helped out by the next, and asked last for a while.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from carrier.errors import Error
from carrier.wire import dns
from carrier.wire.dns import AAAA, NO_NAME, OK, SRV, A, Bad, Reply, Service

HOSTS, SERVERS = "/etc/hosts", "/etc/resolv.conf"
LARGEST = 1 << 20
"""Bytes of these files that are read."""
LOOK = 1.0
"""Seconds between two looks at them."""
HEDGE = 0.25
"""Seconds after which the next server is asked as well; and that the addresses of one family wait for those of the other."""
SILENT = 30.0
"""Seconds that a silent server is asked last."""
TIMEOUT, ATTEMPTS = 2.0, 2
"""Seconds of an attempt, and how many, where resolv.conf does not say."""
MOST_TIMEOUT, MOST_ATTEMPTS, MOST_SERVERS, MOST_SEARCHED = 30.0, 5, 3, 32
"""As many domains as a pod may be given (Kubernetes 1.28); the C library has no such limit since 2.26."""
LOCAL_TTL = 5.0
"""Seconds that what /etc/hosts says is good for."""
SERVICES = 16
"""Targets of one service that are looked up."""


class Unknown(Error):
    """There is no such name, or it leads nowhere: a name server said so. Any other failure says nothing of the name."""


class Place(NamedTuple):
    """Where a name leads. port: of a service; 0: the one that was asked for."""

    family: socket.AddressFamily
    address: str
    port: int = 0


class Found(NamedTuple):
    """ttl: seconds that it is good for."""

    places: list[Place]
    ttl: float


class Settings(NamedTuple):
    """What resolv.conf says. servers: (address, port)."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", 53),)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS
    over_tcp: bool = False


def read_settings(text: str) -> Settings:
    """Lines that make no sense are passed over, as by the C library. A server may have a port: `[::1]:5353`, `127.0.0.1:5353`."""
    servers: list[tuple[str, int]] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and (server := _server(words[1])) is not None:
            servers.append(server)
        elif words[0] in ("search", "domain"):
            search = tuple(word.strip(".").lower() for word in words[1:] if word.strip("."))
        elif words[0] == "options":
            options |= {name: value for name, _, value in (word.partition(":") for word in words[1:])}
    return Settings(
        tuple(servers[:MOST_SERVERS]) or Settings().servers,
        search[:MOST_SEARCHED],
        int(_number(options.get("ndots"), 1, 15)),
        _number(options.get("timeout"), TIMEOUT, MOST_TIMEOUT),
        int(_number(options.get("attempts"), ATTEMPTS, MOST_ATTEMPTS)) or 1,
        "use-vc" in options,
    )


def _number(text: str | None, default: float, most: float) -> float:
    return min(float(text), most) if text is not None and text.isascii() and text.isdigit() else default


def _server(text: str) -> tuple[str, int] | None:
    host, port = text, "53"
    if text[:1] == "[":
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
            return host, int(port)
        except (OSError, ValueError):
            continue
    return None


def read_hosts(text: str) -> dict[str, list[Place]]:
    """Names, in lower case, and their addresses in the order of the file."""
    found: dict[str, list[Place]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        for name in names:
            places = found.setdefault(name.lower().rstrip("."), [])
            if Place(family, address) not in places:
                places.append(Place(family, address))
    return found


class File:
    """A text file that is read again when it has changed. A file that cannot be read is empty."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp: object = None
        self.looked_at = -LOOK
        self.text = ""

    def changed(self) -> bool:
        """Has it, since the last call?"""
        now = time.monotonic()
        if now - self.looked_at < LOOK:
            return False
        self.looked_at = now
        try:
            found = os.stat(self.path)
            stamp: object = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = None
        if stamp is not None and stamp == self.stamp:
            return False
        self.stamp = stamp
        text, self.text = self.text, self._read()
        return text != self.text

    def _read(self) -> str:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        with open(descriptor, "rb") as file:
            return file.read(LARGEST).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""


class Lookup:
    """See the module."""

    def __init__(self, servers: str = SERVERS, hosts: str = HOSTS) -> None:
        self.servers_file, self.hosts_file = File(servers), File(hosts)
        self.settings = Settings()
        self.hosts: dict[str, list[Place]] = {}
        self.silent: dict[tuple[str, int], float] = {}
        """Servers that did not answer, and until when (monotonic seconds) they are asked last."""

    def _look(self) -> None:
        if self.servers_file.changed():
            self.settings = read_settings(self.servers_file.text)
            self.silent.clear()
        if self.hosts_file.changed():
            self.hosts = read_hosts(self.hosts_file.text)

    def local(self) -> dict[str, list[Place]]:
        """The names of /etc/hosts."""
        self._look()
        return self.hosts

    async def find(self, name: str) -> Found:
        """Where a name leads; of a service (`_http._tcp.example.org`, RFC 2782) the places of its targets. Raises Error("dns")."""
        self._look()
        plain = name.lower().rstrip(".")
        known = self.hosts.get(plain)
        if known is None and (plain == "localhost" or plain.endswith(".localhost")):  # RFC 6761 section 6.3
            known = [Place(socket.AF_INET, "127.0.0.1"), Place(socket.AF_INET6, "::1")]
        if known is not None:
            return Found(known, LOCAL_TTL)
        try:
            return await (self._services(name) if is_service(plain) else self._addresses(name))
        except Bad as exc:
            raise Error("dns", str(exc), "upstream", "yes") from None

    def _candidates(self, name: str) -> list[str]:
        """The names that a name may be short for, in order (resolver(5): search, ndots)."""
        if name.endswith("."):
            return [name]
        settings = self.settings
        longer = [f"{name}.{domain}" for domain in settings.search]
        return [name, *longer] if name.count(".") >= settings.ndots else [*longer, name]

    async def _addresses(self, name: str) -> Found:
        found = await self._search(name, self._both)
        return Found(in_order(found.places), found.ttl)

    async def _services(self, name: str) -> Found:
        return await self._search(name, self._targets)

    async def _search(self, name: str, ask: Any) -> Found:
        """What the first candidate that is there says. Raises Error("dns")."""
        failure: Error | None = None
        for candidate in self._candidates(name):
            try:
                found: Found | None = await ask(candidate)
            except Error as error:
                failure = error
                if error.kind == "timeout":  # nobody answers: nobody would answer for the others
                    break
                continue
            if found is not None:
                return found
        if failure is not None:
            raise Error("dns", f"{name}: {failure.detail}", "upstream", "yes")
        raise Unknown("dns", f"{name}: Name or service not known", "upstream", "yes")

    async def _both(self, name: str) -> Found | None:
        """Addresses of both families; None: there are none."""
        four, six = _start(self._ask(name, A)), _start(self._ask(name, AAAA))
        try:
            await asyncio.wait((four, six), return_when=asyncio.FIRST_COMPLETED)
            if not (four.done() and six.done()):
                first = four if four.done() else six
                enough = first.exception() is None and (first.result().found or first.result().code == NO_NAME)  # RFC 8020: of any type
                await asyncio.wait((four, six), timeout=HEDGE if enough else None)
            replies = [task.result() for task in (four, six) if task.done() and task.exception() is None]
            places = [_place(str(address)) for reply in replies for address in reply.found]
            if places:
                return Found(places, min(reply.ttl for reply in replies if reply.found))
            for task in (four, six):
                if task.done() and task.exception() is not None and not any(reply.code == NO_NAME for reply in replies):
                    task.result()
            return None
        finally:
            for task in (four, six):
                task.cancel()
                task.add_done_callback(_heard)

    async def _targets(self, name: str) -> Found | None:
        """The places of a service: by priority, and among equals by chance, the heavier more often (RFC 2782)."""
        reply = await self._ask(name, SRV)
        services = [service for service in reply.found if isinstance(service, Service) and service.target]
        if not services:
            return None
        services.sort(key=lambda s: (s.priority, -(((secrets.randbelow(1 << 30) + 1) / (1 << 30)) ** (1 / (s.weight or 0.01)))))
        places: list[Place] = []
        ttl = float(reply.ttl)
        failure: Error | None = None
        for service in services[:SERVICES]:
            try:
                found = await self.find(service.target + ".")
            except Error as error:
                failure = error
                continue
            places += [Place(place.family, place.address, service.port) for place in found.places]
            ttl = min(ttl, found.ttl)
        if not places and failure is not None:
            raise failure
        return Found(places, ttl)

    # ------------------------------------------------------------------ servers

    def _order(self) -> list[tuple[str, int]]:
        now = time.monotonic()
        return sorted(self.settings.servers, key=lambda server: self.silent.get(server, 0.0) > now)

    async def _ask(self, name: str, kind: int) -> Reply:
        """What a server says that knows. Raises Error: none does ("dns"), or none answers ("timeout"); Bad: the name is none."""
        settings = self.settings
        dns.question(0, name, kind)
        said: dict[tuple[str, int], str] = {}
        for _ in range(settings.attempts):
            reply = await self._attempt(name, kind, self._order(), settings.timeout, said)
            if reply is not None:
                return reply
        servers = ", ".join(f"{_written(server)}: {what}" for server, what in said.items())
        quiet = all(what.startswith("no answer") for what in said.values())
        raise Error("timeout" if quiet else "dns", f"no name server knows ({servers})", "upstream", "yes")

    async def _attempt(
        self, name: str, kind: int, servers: list[tuple[str, int]], timeout: float, said: dict[tuple[str, int], str]
    ) -> Reply | None:
        """Ask the servers, the next one when one is slow or says that it cannot; `said` gets why not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        asked: dict[asyncio.Task[Reply], tuple[str, int]] = {}
        try:
            for i, server in enumerate(servers):
                asked[_start(self._query(server, name, kind))] = server
                more = i + 1 < len(servers)
                if (reply := await self._first(asked, HEDGE if more else deadline - loop.time(), said, more)) is not None:
                    return reply
            for server in asked.values():
                said[server] = f"no answer within {timeout:g} s"
                self.silent[server] = time.monotonic() + SILENT
            return None
        finally:
            for task in asked:
                task.cancel()
                task.add_done_callback(_heard)

    async def _first(
        self, asked: dict[asyncio.Task[Reply], tuple[str, int]], wait: float, said: dict[tuple[str, int], str], more: bool
    ) -> Reply | None:
        """The first good answer within `wait` seconds; those that fail are asked no more. more: there is another to ask then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while asked and (left := deadline - loop.time()) > 0:
            done, _ = await asyncio.wait(asked, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                server = asked.pop(task)
                try:
                    reply = task.result()
                except (OSError, Bad) as exc:
                    said[server] = getattr(exc, "strerror", None) or str(exc)
                    continue
                if reply.code in (OK, NO_NAME):
                    for other in asked.values():
                        self.silent[other] = time.monotonic() + SILENT
                    self.silent.pop(server, None)
                    return reply
                said[server] = f"failed with code {reply.code}"
            if done and more:
                return None
        return None

    async def _query(self, server: tuple[str, int], name: str, kind: int) -> Reply:
        """One question to one server; over TCP when the answer is cut. Raises OSError, Bad."""
        if not self.settings.over_tcp:
            reply = await self._talk(server, name, kind, socket.SOCK_DGRAM)
            if not reply.cut:
                return reply
        return await self._talk(server, name, kind, socket.SOCK_STREAM)

    async def _talk(self, server: tuple[str, int], name: str, kind: int, sort: socket.SocketKind) -> Reply:
        """From a port and with a number that nobody can guess; what is no answer to this question is passed over."""
        loop = asyncio.get_running_loop()
        number = secrets.randbits(16)
        message = dns.question(number, name, kind)
        with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, sort | socket.SOCK_NONBLOCK) as sock:
            if sort == socket.SOCK_DGRAM:
                sock.connect(server)
                await loop.sock_sendall(sock, message)
            else:
                await loop.sock_connect(sock, server)
                await loop.sock_sendall(sock, len(message).to_bytes(2, "big") + message)
            while True:
                data = await (loop.sock_recv(sock, 65536) if sort == socket.SOCK_DGRAM else _message(loop, sock))
                try:
                    reply = dns.answer(data)
                except Bad:
                    if sort == socket.SOCK_DGRAM:
                        continue
                    raise
                if (reply.number, reply.name, reply.kind) == (number, dns.asked(message), kind):
                    return reply


async def _message(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """A message over TCP, with its length in front (RFC 1035 section 4.2.2). Raises OSError."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        more = await loop.sock_recv(sock, 65536)
        if not more:
            raise ConnectionResetError("closed before the whole answer")
        data += more
    return data[2 : 2 + int.from_bytes(data[:2], "big")]


def _start(asking: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
    return asyncio.get_running_loop().create_task(asking)


def _heard(task: asyncio.Task[Reply]) -> None:
    """Nobody waits for it any more; what it says is not missed."""
    if not task.cancelled():
        task.exception()


def _place(address: str) -> Place:
    return Place(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _written(server: tuple[str, int]) -> str:
    return server[0] if server[1] == 53 else f"[{server[0]}]:{server[1]}" if ":" in server[0] else f"{server[0]}:{server[1]}"


def is_service(name: str) -> bool:
    """Is it the name of a service: `_http._tcp.example.org`?"""
    labels = name.split(".")
    return len(labels) > 2 and labels[0][:1] == "_" and labels[1] in ("_tcp", "_udp", "_sctp")


def in_order(places: list[Place]) -> list[Place]:
    """The families in turn, the one first that we have a route to, IPv6 if both (RFC 8305 section 4); each address once."""
    unique = list(dict.fromkeys(places))
    six = [place for place in unique if place.family == socket.AF_INET6]
    four = [place for place in unique if place.family == socket.AF_INET]
    if six and four and not _has_route(six[0].address):
        return [*four, *six]
    found: list[Place] = []
    for i in range(max(len(six), len(four))):
        found += six[i : i + 1] + four[i : i + 1]
    return found


def _has_route(address: str) -> bool:
    """To connect a socket of datagrams sends nothing, and asks the kernel for a route."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 53))
        return True
    except OSError:
        return False
