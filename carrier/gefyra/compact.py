"""Gefyra's configuration format, written: as the operator writes it while that fits into the 4 KiB of it that the operator reads back,
otherwise as short as it can be said.

What the format has as defaults is left out, and nothing else changes: what is written says the same when it is read. The short form is
YAML without spaces and with as few quotes as it takes. User bridges made over REST are written under their port, so that an operator that
leads by the file finds them, and so does a proxy that starts from it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

READ_BACK = 4096
"""Bytes of the file that the operator reads, in one frame of its exec."""
_UNREAD = ("threads", "pid_file", "upgrade_sock")
"""What our proxy does not read, and the operator's own model has defaults for."""
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_/.-]*(:[0-9]{1,5})?")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
"""What looks like text and is none in YAML 1.1."""

Object = dict[str, Any]


def written(document: Mapping[str, Any], bridges: Sequence[Mapping[str, Any]], there: bytes | None = None) -> bytes:
    """The file with these bridges (as `PUT /bridges` takes them, with their names). there: the operator's own, which stays as it is where
    it fits, and no bridge is to be added."""
    if there is not None and not bridges and len(there) <= READ_BACK:
        return there
    found = _gathered(document, bridges)
    text = "".join(f"{line}\n" for line in _lines(found)).encode()
    return text if len(text) <= READ_BACK else _short(found).encode()


def compact(document: Mapping[str, Any], bridges: Iterable[Mapping[str, Any]] = ()) -> str:
    """The document in its short form, with these bridges: a line of YAML for each of its members."""
    return _short(_gathered(document, bridges))


def _short(found: Mapping[str, Any]) -> str:
    return "".join(f"{_scalar(str(key))}: {_text(value)}\n" for key, value in found.items())


def _lines(value: Any) -> Iterator[str]:
    """A mapping or a list with something in it as YAML, in block style."""
    mapping = isinstance(value, Mapping)
    for key, member in value.items() if mapping else (("", one) for one in value):
        first = f"{_scalar(str(key))}: " if mapping else "- "
        if not (member and isinstance(member, Mapping | list)):
            yield f"{first}{_text(member)}"
            continue
        lines = _lines(member)
        if mapping:
            yield first.rstrip()
            yield from (line if isinstance(member, list) else f"  {line}" for line in lines)
        else:
            yield f"- {next(lines)}"
            yield from (f"  {line}" for line in lines)


def _gathered(document: Mapping[str, Any], bridges: Iterable[Mapping[str, Any]]) -> Object:
    """What the file is to say."""
    found: Object = {key: copy.deepcopy(value) for key, value in document.items() if key not in _UNREAD and value is not None}
    ports = [port for port in found.get("proxy") or [] if isinstance(port, dict)]
    for bridge in bridges:
        for port in ports:
            if port.get("port") == bridge.get("port"):
                port.setdefault("bridges", {})[owner(str(bridge["name"]))] = _bridge(bridge)
    for port in ports:
        for name in [name for name, value in port.items() if value is None or (name == "bridges" and not value)]:
            del port[name]
        for bridged in (port.get("bridges") or {}).values():
            _shorten(bridged)
    if isinstance(found.get("probes"), dict):
        found["probes"] = {kind: ports for kind, ports in found["probes"].items() if ports}
        if not found["probes"] and ports:
            del found["probes"]
    return found


def owner(name: str) -> str:
    """The object that a bridge is for: a provider calls it OBJECT.PORT; one of somebody else's making has its own name."""
    found, _, port = name.rpartition(".")
    return found if found and port.isdigit() else name


def _bridge(bridge: Mapping[str, Any]) -> Object:
    """A bridge of ours in Gefyra's words, as far as it has any."""
    found: Object = {"endpoint": bridge.get("endpoint")}
    if bridge.get("type") == "stream":
        rules: list[Any] = [{"match": []}]
    elif bridge.get("url") is not None:
        rules = [{"match": [{"matchPath": {"path": bridge["url"], "type": "prefix"}}]}]
    elif bridge.get("rules") is not None:
        rules = [{"match": _conditions(rule.get("match"))} for rule in bridge["rules"]]
    else:
        rules = [{"match": _conditions(bridge.get("match"))}]
    found["rules"] = rules
    if bridge.get("fallback") == "error":
        found["fallback"] = "error"
    return found


def _conditions(match: Any) -> list[Any]:
    given = match if isinstance(match, list) else [] if match is None else [match]
    return [{kind: _without(body, "raw") if isinstance(body, Mapping) else body for kind, body in one.items()} for one in given]


def _shorten(bridge: Any) -> None:
    """`exact` is what a condition is without a type."""
    for rule in (bridge.get("rules") or []) if isinstance(bridge, dict) else []:
        for condition in (rule.get("match") or []) if isinstance(rule, dict) else []:
            for body in condition.values() if isinstance(condition, dict) else []:
                if isinstance(body, dict) and body.get("type") == "exact":
                    del body["type"]


def _without(body: Mapping[str, Any], *names: str) -> Object:
    return {name: value for name, value in body.items() if name not in names}


def _text(value: Any) -> str:
    """A value as YAML, in flow style."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_scalar(str(key))}: {_text(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    """Without quotes where YAML reads it as the same text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text)
