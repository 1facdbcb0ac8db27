"""Finds a running carrier's REST API and calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http.client import HTTPConnection


OK, FAILED, USAGE = 0, 1, 2
TIMEOUT = 30.0


class Refused(Exception):
    """The API said no, or is not there. content: what it said, a text or a list of problems."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(str(content))
        self.status = status
        self.content = content


class Client:
    """Calls the REST API. where: a path of a unix socket, or HOST:PORT; None: where a carrier of this user would listen, which is the
    unix socket if somebody answers there, else the TCP address."""

    def __init__(self, where: str | None = None, token: str | None = None) -> None:
        self.where = where or os.environ.get("CARRIER_ADMIN")
        self.token = token or os.environ.get("CARRIER_TOKEN")

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The decoded answer. path: after /api/v1, or a whole one. Raises Refused."""
        headers = {"host": "localhost"}
        if body is not None:
            headers["content-type"] = kind
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        from http.client import HTTPException

        connection = self._connection()
        try:
            connection.request(method, path if path.startswith("/") else f"/api/v1/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (OSError, HTTPException) as exc:
            raise Refused(0, f"no carrier answers at {self.where}: {reason(exc)}") from None
        finally:
            connection.close()
        return _decoded(answer.status, text)

    def send(self, method: str, path: str, body: object) -> Any:
        """A call with a JSON body. Raises Refused."""
        return self.call(method, path, json.dumps(body).encode())

    def _connection(self) -> HTTPConnection:
        """Connected. Raises Refused."""
        said = []
        for where in [self.where] if self.where else _defaults():
            try:
                connection = _connected(where)
            except OSError as exc:
                said.append(f"{where}: {reason(exc)}")
            else:
                self.where = where
                return connection
        hint = "" if self.where else f"; {_others()}--admin or CARRIER_ADMIN says where one is"
        raise Refused(0, f"no carrier answers at {', nor at '.join(said)}{hint}")


def _connected(where: str) -> HTTPConnection:
    """Raises OSError."""
    import http.client
    import socket

    if "/" not in where:
        host, _, port = where.rpartition(":")
        tcp = http.client.HTTPConnection(host.strip("[]") or "127.0.0.1", int(port) if port.isdecimal() else 1234, timeout=TIMEOUT)
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


def _defaults() -> list[str]:
    """Where a carrier of this user would listen."""
    from carrier.admin.where import default_socket

    path = default_socket()
    return [*([path] if os.path.exists(path) else []), "127.0.0.1:1234"]


def _others() -> str:
    """The sockets of carriers that found the default one taken (carrier/admin/where.py)."""
    from carrier.admin.where import default_socket

    path = Path(default_socket())
    found = ", ".join(map(str, sorted(path.parent.glob(f"{path.stem}-*.sock"))))
    return f"there is also {found}; " if found else ""


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
