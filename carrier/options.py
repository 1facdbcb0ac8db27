"""Options that are numbers: limits in bytes, seconds, sessions. A protocol file has a table of names and defaults; these two read it.

l7mp's own calls accept what they always accepted, so a value that is no number counts as not given; the strict standard (files,
PUT, POST /config) names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrier.errors import Problem

Defaults = Mapping[str, float]
MOST: Mapping[str, float] = {"track": 86_400}
"""Options that have an upper limit too: what is tracked stays in memory so many seconds."""


def _good(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def numbers(options: Mapping[str, Any], defaults: Defaults) -> dict[str, float]:
    """Every option of `defaults`, as given or else its default."""
    return {name: options[name] if _good(options.get(name)) else default for name, default in defaults.items()}


def check_numbers(options: Mapping[str, Any], defaults: Defaults, path: str) -> list[Problem]:
    """Everything wrong with options that may only be those of `defaults`."""
    allowed = ", ".join(defaults)
    found = [
        Problem(f"unknown option {name!r}", f"{path}.{name}", seen=repr(options[name]), allowed=allowed)
        for name in options
        if name not in defaults
    ]
    found += [
        Problem(f"expected a number, got {value!r}", f"{path}.{name}", seen=repr(value), allowed=_range(name))
        for name, value in options.items()
        if name in defaults and not (_good(value) and value <= MOST.get(name, value))
    ]
    return found


def _range(name: str) -> str:
    return f"0..{MOST[name]:g}" if name in MOST else "0 or more"


def port_of(spec: Mapping[str, Any]) -> int:
    """`spec.port`, or -1 when that is no port: then binding fails, and says so."""
    port = spec.get("port")
    return port if isinstance(port, int) and 0 <= port <= 65_535 else -1
