"""Where the REST API listens: a unix socket and one TCP address.

The unix socket is a file of mode 0600 in a folder that only we can write, so that nobody else can put one there in our place; the gate
asks the kernel for the caller's user as well. A socket file that nobody answers at is left over from a crash and is replaced; one that is
answered at belongs to another carrier. The TCP address is the proxy's (carrier/proxy/proxy.py), because a configured listener takes
its place; what both have in common, an HTTP listener with one rule, is made here. None of them is ever listed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

from carrier import model as cfg
from carrier.core import registry
from carrier.core.address import BACKLOG
from carrier.errors import Error, from_os
from carrier.hops.unixsocket import identity
from carrier.rules.table import Matchers, Table

if TYPE_CHECKING:
    from carrier.admin.gate import Limits
    from carrier.core.env import Env
    from carrier.core.listener import Listener

SOCKET = "carrier.sock"


def own_listener(env: Env, name: str, host: str | None, port: int, limits: Limits) -> Listener:
    """An HTTP listener whose one rule leads into `env.api`; bound to nothing yet. Raises Error("config") without those protocols."""
    conf = cfg.Config(
        clusters={"api": cfg.Cluster("api", {"protocol": "L7mpController"})},
        rulelists={"api": cfg.RuleList("api", ("api",))},
        rules={"api": cfg.Rule("api", None, cfg.Action(route="api"))},
        routes={"api": cfg.Route("api", "api")},
    )
    http, controller = registry.listener("HTTP"), registry.cluster("L7mpController")
    if http is None or controller is None:
        raise Error("config", "the protocols HTTP and L7mpController are not installed: there is no API")
    spec = {"protocol": "HTTP", "port": port} | ({"address": host} if host is not None else {})
    listener = http(cfg.Listener(name, spec, "api", options(limits)), env)
    listener.listed = False
    listener.use(Table(conf, "api", {"api": controller(conf.clusters["api"], env)}, Matchers(), {}))
    return listener


class Door:
    """The way into the API, for who binds listeners (carrier/proxy/proxy.py)."""

    def __init__(self, env: Env, limits: Limits) -> None:
        self.env = env
        self.limits = limits
        self.options = options(limits)

    def make(self, name: str, host: str, port: int) -> Listener:
        """See `own_listener`."""
        return own_listener(self.env, name, host, port, self.limits)


def options(limits: Limits) -> dict[str, Any]:
    """The options of a listener that leads into the API and nowhere else."""
    timeout = limits.request_timeout
    return {"max_connections": limits.connections, "header_timeout": timeout, "body_grace": timeout}


# ---------------------------------------------------------------------------------------------------------------- the unix socket


def default_socket() -> str:
    """The path of the unix socket when none is given: in XDG_RUNTIME_DIR, in /run for root, else in a folder of our own under /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and _is_private(runtime):
        return os.path.join(runtime, SOCKET)
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return os.path.join("/run", SOCKET)
    return os.path.join(f"/tmp/carrier-{os.geteuid()}", SOCKET)


def _is_private(folder: str) -> bool:
    """A folder that is ours and that nobody else can write."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def bind_unix(path: str, private: bool = True) -> socket.socket:
    """A listening unix socket of mode 0600. private: its folder is made, mode 0700, and must be ours alone.

    Raises Error("bind"): the path is too long (108 bytes, unix(7)), another process answers at it, something else is there.
    """
    folder = os.path.dirname(path) or "."
    if private and folder not in ("/run", "."):
        with contextlib.suppress(FileExistsError, OSError):
            os.mkdir(folder, 0o700)
        if not _is_private(folder):
            raise Error("bind", f"{folder} is not a folder of ours alone: no socket is made in it")
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)  # the file must never be open to others, not even between bind and chmod
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise Error("bind", f"{path}: {from_os(exc, 'carrier').detail}") from None
    finally:
        os.umask(before)
    return sock


def _clear(path: str) -> None:
    """Remove the socket file of a process that is gone. Raises Error("bind") when one is there, or when it is no socket."""
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Error("bind", f"{path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as exc:
            raise Error("bind", f"{path}: {exc.strerror or exc}") from None
    raise Error("bind", f"{path}: Address already in use: another carrier answers there")


class UnixSocket:
    """The API's unix socket: its listener and its file. Raises Error("bind")."""

    def __init__(self, env: Env, path: str, limits: Limits, private: bool = False) -> None:
        self.path = path
        self.listener = own_listener(env, "(unix)", None, 0, limits)
        sock = bind_unix(path, private)
        self.listener.bound = [sock]
        found = os.stat(path)
        self.identity = found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the file, unless it is another process's by now. Idempotent."""
        with contextlib.suppress(OSError):
            if identity(self.path) == self.identity:
                os.unlink(self.path)


def open_socket(env: Env, path: str | None, limits: Limits) -> tuple[UnixSocket | None, str]:
    """The unix socket at `path`, or None and a warning. None: at the default path; if another carrier of ours is there, beside it."""
    if path is not None:
        return UnixSocket(env, path, limits), ""
    path = default_socket()
    try:
        return UnixSocket(env, path, limits, True), ""
    except Error as error:
        beside = f"{path.removesuffix('.sock')}-{os.getpid()}.sock"
        if "another carrier" not in error.detail:
            return None, f"the REST API has no unix socket: {error.detail}"
    try:
        return UnixSocket(env, beside, limits, True), f"another carrier answers at {path}: the REST API is at {beside}"
    except Error as error:
        return None, f"the REST API has no unix socket: {error.detail}"
