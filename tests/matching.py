"""The words that tests of matching share: a request's metadata, matches, and whether one holds."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.errors import ConfigError
from carrier.rules.match import Matcher
from carrier.rules.notation import compile_match


def request(path: str = "/", method: str = "GET", src: str = "192.0.2.7", sni: str = "", host: str = "", **headers: Any) -> dict[str, Any]:
    """The metadata of an HTTP request; underscores in header names become hyphens."""
    return {
        "IP": {"src_addr": src, "dst_addr": "127.0.0.1"},
        "TCP": {"src_port": 40000, "dst_port": 18000},
        "TLS": {"sni": sni},
        "HTTP": {
            "version": "1.1",
            "method": method,
            "url": {"path": path, "query": path.partition("?")[2], "host": host},
            "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        },
    }


def holds(match: object, meta: object) -> bool:
    """Whether a match holds: asked of the index, and of explain, which must agree."""
    matcher = Matcher([("rule", match)])
    assert matcher.findings == () or matcher.findings[0].kind == "invalid"
    taken = matcher.first(meta) == 0
    assert matcher.explain(meta)[0].matched is taken
    return taken


def problems(match: object) -> str:
    with pytest.raises(ConfigError) as caught:
        compile_match(match, path="$.match")
    return str(caught.value)


def header(value: str, type: str = "exact", name: str = "x-user", **more: Any) -> dict[str, Any]:
    return {"matchHeader": {"name": name, "value": value, "type": type, **more}}


def path(path: str, type: str = "exact", **more: Any) -> dict[str, Any]:
    return {"matchPath": {"path": path, "type": type, **more}}


PREDICATE = {"op": "test", "path": "/HTTP/headers/x-user", "value": "john"}
