"""`carrier connect FROM TO`: one-liners as socat(1) has them, over our listeners and clusters.

FROM listens (`tcp-l:8080`, `unix-l:/run/a.sock`) or is `-`, standard input and output. TO is reached (`tcp:10.0.0.9:80`, `ws://host:port/path`,
`exec:sort -u`). Without an address only this machine is listened to. The document that is made of both is an ordinary configuration:
`--print` shows it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from carrier.cli.client import Dict

PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
LISTENS = {"tcp-l": "TCP", "udp-l": "UDP", "http-l": "HTTP", "ws-l": "WebSocket", "sctp-l": "SCTP"}
REACHES = {"tcp": "TCP", "udp": "UDP", "tls": "TCP", "sctp": "SCTP"}
FROM = (*(f"{kind}:[HOST:]PORT" for kind in LISTENS), "unix-l:PATH", "-")
TO = (
    *(f"{kind}:HOST:PORT" for kind in REACHES),
    "ws://HOST:PORT/PATH",
    "http://HOST:PORT",
    "unix:PATH",
    "exec:COMMAND",
    "echo:",
    "discard:",
    "-",
)


def document(source: str, destination: str) -> Dict:
    """The configuration that carries the one to the other. Raises ValueError in words: an end that is none."""
    cluster, rewrite = _cluster(destination)
    action: Dict = {"route": {"destination": "to"}}
    if rewrite:
        action["rewrite"] = rewrite
    return {
        "listeners": [{"name": "from", **_listener(source), "rules": [{"name": "all", "action": action}]}],
        "clusters": [{"name": "to", **cluster}],
    }


def _listener(text: str) -> Dict:
    if text == "-":
        return {"spec": {"protocol": "Stdio"}, "options": {"exit": True}}
    kind, _, rest = text.partition(":")
    if kind == "unix-l" and rest:
        return {"spec": {"protocol": "UnixDomainSocket", "filename": rest}}
    if kind not in LISTENS:
        raise ValueError(f"{text!r} is nothing to listen at; {_said(kind, FROM)}")
    host, _, port = rest.rpartition(":")
    return {"spec": {"protocol": LISTENS[kind], "port": _port(text, port), "address": host.strip("[]") or "127.0.0.1"}}


def _cluster(text: str) -> tuple[Dict, list[Dict]]:
    """The cluster, and what its requests are rewritten to."""
    if text == "-":
        return {"spec": {"protocol": "Stdio"}}, []
    if "://" in text:
        return _url(text)
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[str], Dict]] = {
        "unix": lambda path: {"spec": {"protocol": "UnixDomainSocket"}, "endpoints": [{"spec": {"address": path}}]},
        "exec": lambda command: {"spec": {"protocol": "STDIO-fork", "command": shlex.split(command)}},
        "echo": lambda _: {"spec": {"protocol": "Echo"}},
        "discard": lambda _: {"spec": {"protocol": "Discard"}},
    }
    if (made := makers.get(kind)) is not None:
        if not rest and kind in ("unix", "exec"):
            raise ValueError(f"{text!r} says no {'path' if kind == 'unix' else 'command'}")
        return made(rest), []
    host, _, port = rest.rpartition(":")
    if kind not in REACHES or not host:
        raise ValueError(f"{text!r} is nothing to reach; {_said(kind, TO)}")
    spec: Dict = {"protocol": REACHES[kind], "port": _port(text, port)}
    if kind == "tls":
        spec["tls"] = True
    return {"spec": spec, "endpoints": [{"spec": {"address": host.strip("[]")}}]}, []


def _url(text: str) -> tuple[Dict, list[Dict]]:
    found = urlsplit(text)
    if found.scheme not in PORTS or not found.hostname:
        raise ValueError(f"{text!r} is nothing to reach; {_said(found.scheme, TO)}")
    spec: Dict = {"protocol": "WebSocket" if found.scheme in ("ws", "wss") else "HTTP", "port": found.port or PORTS[found.scheme]}
    if found.scheme in ("wss", "https"):
        spec["tls"] = True
    rewrite = []
    if found.path not in ("", "/"):
        rewrite.append({"path": "/HTTP/url/path", "value": found.path + (f"?{found.query}" if found.query else "")})
    return {"spec": spec, "endpoints": [{"spec": {"address": found.hostname}}]}, rewrite


def _port(text: str, port: str) -> int:
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} has no port: a number 1..65535 stands at its end")
    return int(port)


def _said(seen: str, forms: tuple[str, ...]) -> str:
    from carrier.errors import did_you_mean

    hint = did_you_mean(seen, [form.partition(":")[0] for form in forms])
    return f"{hint + ', ' if hint else ''}one of {', '.join(forms)}"


def text_of(made: Any) -> str:
    """The document as YAML."""
    import yaml

    return str(yaml.safe_dump(made, sort_keys=False, default_flow_style=None, width=120))
