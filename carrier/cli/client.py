"""Finds a running carrier's REST API and calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http.client import HTTPConnection


OK, FAILED, USAGE = 0, 1, 2
TIMEOUT = 30.0
SILENCE = 60.0
"""Seconds after which a stream that says nothing is broken: a carrier says something every 15."""
LOOKS = ("explain", "validate", "bridges:validate", "probe")
"""Ends of paths whose POST changes nothing."""


class Refused(Exception):
    """The API said no, or is not there. content: what it said, a text or a list of problems."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(str(content))
        self.status = status
        self.content = content


class Client:
    """Calls the REST API. where: a path of a unix socket, HOST:PORT or a URL; None: where a carrier of this user would listen.

    Without `where` the unix sockets that a carrier would have are tried (the default one, those beside it, that of Gefyra's daemon), then
    127.0.0.1:1234. Of several carriers the first is read from; nothing is changed before one is named.
    """

    def __init__(self, where: str | None = None, token: str | None = None) -> None:
        self.where = where or os.environ.get("CARRIER_ADMIN")
        if self.where:
            self.where = place(self.where)
        self.named = bool(self.where)
        """Somebody said where it is, and may send his token there."""
        self.token = token or os.environ.get("CARRIER_TOKEN")
        self.revision = ""
        """Of the configuration, as the last answer told it."""
        self.others: list[str] = []
        """Further unix sockets at which carriers answer, when nobody said which is meant."""

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The decoded answer. path: after /api/v1, or a whole one. Raises Refused."""
        headers = {"host": "localhost"}
        if body is not None:
            headers["content-type"] = kind
        from http.client import HTTPException

        connection = self._connection()
        if self.token and (self.named or self._is_private()):
            headers["authorization"] = f"Bearer {self.token}"
        if self.others and method != "GET" and path.partition("?")[0].rpartition("/")[2] not in LOOKS:
            connection.close()
            raise Refused(0, self._which())
        try:
            connection.request(method, path if path.startswith("/") else f"/api/v1/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            self.revision = answer.headers.get("carrier-revision", "")
        except (OSError, HTTPException) as exc:
            raise Refused(0, f"no carrier answers at {self.where}: {reason(exc)}") from None
        finally:
            connection.close()
        return _decoded(answer.status, text)

    def send(self, method: str, path: str, body: object) -> Any:
        """A call with a JSON body. Raises Refused."""
        return self.call(method, path, json.dumps(body).encode())

    def lines(self, path: str, last: str = "") -> Iterator[str]:
        """The lines of an answer that never ends; last: the id of the last event that was seen. Raises Refused, also when it ends."""
        from http.client import HTTPException

        headers = {"host": "localhost", "accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        connection = self._connection()
        try:
            connection.request("GET", f"/api/v1/{path}", headers=headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                _decoded(answer.status, answer.read().decode("utf-8", "replace"))
            if connection.sock is not None:
                connection.sock.settimeout(SILENCE)
            for line in answer:
                yield line.decode("utf-8", "replace").rstrip("\r\n")
        except (OSError, HTTPException) as exc:
            raise Refused(0, f"the carrier at {self.where} is gone: {reason(exc)}") from None
        finally:
            connection.close()
        raise Refused(0, f"the carrier at {self.where} has ended")

    def _connection(self) -> HTTPConnection:
        """Connected. Raises Refused."""
        said, left = [], 0
        for where in [self.where] if self.where else _defaults():
            try:
                connection = _connected(where)
                if self.where is None:
                    _check_owner(connection)
            except OSError as exc:
                if self.where is None and isinstance(exc, ConnectionRefusedError) and "/" in where:
                    left += 1  # the socket of a carrier that was killed
                else:
                    said.append(f"{where}: {reason(exc)}")
            else:
                if self.where is None:
                    self.others = [other for other in _defaults()[:-1] if other != where and _answers(other)]
                self.where = where
                return connection
        if left:
            said.append(f"{left} socket{'s' * (left > 1)} that carriers have left behind")
        hint = "" if self.where else "; --admin or CARRIER_ADMIN says where one is"
        raise Refused(0, f"no carrier answers at {', nor at '.join(said)}{hint}")

    def _is_private(self) -> bool:
        """Is what was found by chance a unix socket of our own, or TLS? At a TCP address anybody of this machine may listen."""
        return self.where is not None and (self.where.startswith("https://") or "/" in self.where)

    def _which(self) -> str:
        """Several carriers run here: which they are, for who has to name one."""
        lines = []
        for where in [str(self.where), *self.others]:
            try:
                found = Client(where, self.token).call("GET", "status")
            except Refused as refused:
                lines.append(f"  {where}  ({refused.content})")
                continue
            ports = ", ".join(f"{listener['name']} at {listener['address']}" for listener in found["listeners"]) or "no listeners"
            lines.append(f"  {where}  pid {found.get('pid')}, {found.get('file') or 'no file'}, {ports}")
        return "several carriers run here; say with --admin which one is meant:\n" + "\n".join(lines)


def place(text: str) -> str:
    """Where an API is, as it may be written: a path, HOST:PORT, or a URL of one. Raises Refused: it is nothing of these."""
    if text.startswith("https://"):
        return f"https://{place(text.removeprefix('https://').rstrip('/'))}"
    address = text.removeprefix("http://").rstrip("/") if text.startswith("http://") else text
    if "/" in address:
        return address
    host, colon, port = address.rpartition(":")
    if colon and host and port.isdecimal() and 0 < int(port) < 65_536:
        return address
    if os.path.exists(address):
        return f"./{address}"
    raise Refused(0, f"--admin takes the path of a unix socket, HOST:PORT or a URL, got {text!r}")


def _connected(where: str) -> HTTPConnection:
    """Raises OSError."""
    import http.client
    import socket

    if where.startswith("https://") or "/" not in where:
        host, _, port = where.removeprefix("https://").rpartition(":")
        tcp: http.client.HTTPConnection
        if where.startswith("https://"):
            import ssl

            context = ssl.create_default_context(cafile=os.environ.get("CARRIER_CA"))
            tcp = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=TIMEOUT, context=context)
        else:
            tcp = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT)
        tcp.connect()
        return tcp
    unix = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
    unix.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.sock.settimeout(TIMEOUT)
    try:
        unix.sock.connect(where)
    except OSError:
        unix.close()
        raise
    return unix


def _check_owner(connection: HTTPConnection) -> None:
    """Does a process of our own user, or root's, listen at a unix socket that was found by chance? Raises OSError."""
    import socket

    from carrier.cli.carrierctl import answers

    sock = connection.sock
    if isinstance(sock, socket.socket) and sock.family == socket.AF_UNIX and answers(sock) not in (os.geteuid(), 0):
        user = answers(sock)
        connection.close()
        raise PermissionError(0, f"user {user} answers there, neither ours nor root")


def _answers(where: str) -> bool:
    try:
        _connected(where).close()
    except OSError:
        return False
    return True


def _defaults() -> list[str]:
    """Where a carrier of this user would listen: socket files that are there, each once, and the TCP address."""
    from carrier.admin.where import default_socket
    from carrier.cli import carrierctl

    path = Path(default_socket())
    beside = sorted(map(str, path.parent.glob(f"{path.stem}-*.sock")))
    files = {os.path.realpath(file): file for file in reversed([str(path), *beside, carrierctl.default_socket()]) if os.path.exists(file)}
    return [*reversed(files.values()), "127.0.0.1:1234"]


def reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _decoded(status: int, text: str) -> Any:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        value = text
    if status >= 400 or status == 0:
        raise Refused(status, value.get("content", value) if isinstance(value, Mapping) else value)
    return value


Dict = dict[str, Any]
