"""The process itself, as `GET /api/v1/process` shows it: versions, where its API listens and what locks it, what it may use, its clock."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrier.config.dump import version
from carrier.log import rfc3339
from carrier.observe.overview import address_of

if TYPE_CHECKING:
    from carrier.core.listener import Listener
    from carrier.observe.metrics import Metrics
    from carrier.proxy.overload import Watch
    from carrier.proxy.proxy import Proxy

LIBRARIES = ("uvloop", "h11", "msgspec", "PyYAML", "google-re2", "prometheus-client")
CAPABILITIES = {
    1: "dac_override",
    10: "net_bind_service",
    12: "net_admin",
    13: "net_raw",
    21: "sys_admin",
    38: "perfmon",
    39: "bpf",
}
"""Of those that there are (capabilities(7)) the ones that a proxy may need, or should not have."""
BEGAN = time.time()


def facts(proxy: Proxy, watch: Watch | None, metrics: Metrics | None = None) -> dict[str, Any]:
    """All of it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {
        "version": version(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "libraries": _libraries(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "pid": os.getpid(),
        "user": os.geteuid(),
        "started": rfc3339(BEGAN),
        "time": rfc3339(time.time()),
        "api": list(_doors(proxy)),
        "descriptors": {"open": _open(), "limit": None if limit == resource.RLIM_INFINITY else limit},
        "connections": {"now": proxy.connections(), "limit": watch.bounds.connections or None if watch is not None else None},
        "memory": {
            "resident": watch.memory or None if watch is not None else None,
            "limit": watch.bounds.memory or None if watch is not None else None,
        },
        "lag": watch.lag if watch is not None else None,
        "capabilities": _capabilities(),
        "unsaved": proxy.unsaved,
        "told": _told(metrics),
    }


def _told(metrics: Metrics | None) -> dict[str, str]:
    """Where what happened is told, as far as it is: why the last of it was lost there, "" where it was not."""
    found = {}
    if metrics is not None and metrics.access is not None:
        found["access_log"] = metrics.access.writer.trouble
    if metrics is not None and metrics.spans is not None:
        found["traces"] = metrics.spans.trouble
    return found


def _doors(proxy: Proxy) -> list[dict[str, Any]]:
    """Where the REST API listens: for everybody or for this machine, and what who calls has to show."""
    gate = proxy.env.gate
    lock = [] if gate is None else ["tokens"] * (gate.tokens is not None) + ["certificates"] * gate.asks_certificates
    found = [_door(listener, lock) for listener in _leading(proxy)]
    return found + [{"address": path, "loopback": True, "lock": ["our own user"]} for path in proxy.env.api_files]


def _leading(proxy: Proxy) -> list[Listener]:
    """The listeners that lead into the API."""
    leading = [proxy.listeners[name] for name, table in proxy.tables.items() if any(cluster.admin for cluster in table.reaches)]
    return leading + ([proxy.admin] if proxy.admin is not None else [])


def _door(listener: Listener, lock: list[str]) -> dict[str, Any]:
    return {"address": address_of(listener), "loopback": listener.local(), "lock": lock}


def _libraries() -> dict[str, str]:
    from importlib import metadata  # as in dump.py: only who is asked loads it

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _open() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one is for looking
    except OSError:
        return None


def _capabilities() -> list[str]:
    """Those of CAPABILITIES that are in effect (proc(5), CapEff)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return []
    held = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return [name for bit, name in CAPABILITIES.items() if held >> bit & 1]
