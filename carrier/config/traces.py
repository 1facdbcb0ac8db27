"""`admin.traces`: what it may say, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from carrier.config.settings import Check, is_part, read_fields
from carrier.redact import REDACTED
from carrier.rules.checks import is_number

if TYPE_CHECKING:
    from carrier.model import Config

MAX_QUEUE = 100_000


class Settings(msgspec.Struct, frozen=True):
    """endpoint: URL of an OTLP collector over HTTP. ratio: of the requests that come without a trace, 0 to 1. headers: for the collector.
    timeout: seconds that one export may take. queue: spans that may wait."""

    endpoint: str
    ratio: float = 0.01
    headers: dict[str, str] = {}
    service: str = "carrier"
    resource: dict[str, Any] = {}
    timeout: float = 5.0
    queue: int = 2048

    @property
    def url(self) -> str:
        """Where spans go: a URL without a path is that of a collector as such (OTLP specification, section OTLP/HTTP)."""
        parts = urlsplit(self.endpoint)
        return parts._replace(path="/v1/traces").geturl() if parts.path in ("", "/") else self.endpoint


def read(value: object, path: str = "$.admin.traces") -> Settings:
    """The settings of a configuration. Raises ConfigError with what is wrong; values of `headers` are not shown."""
    return Settings(**read_fields(value, path, _GOOD, "endpoint", "the export of traces", secret=frozenset(("headers",))))


def settings_of(config: Config) -> Settings | None:
    """What a configuration says of traces; None: nothing is traced. Raises ConfigError."""
    value = config.admin.options.get("traces")
    return None if value is None else read(value)


def veiled(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a document, without the values of `headers`."""
    admin = document.get("admin")
    traces = admin.get("traces") if isinstance(admin, Mapping) else None
    if not isinstance(traces, Mapping) or not traces.get("headers"):
        return document
    return {**document, "admin": {**admin, "traces": {**traces, "headers": dict.fromkeys(traces["headers"], REDACTED)}}}  # type: ignore[dict-item]


def unveiled(document: object, now: Config) -> object:
    """A document that was shown so, with the values that are in force."""
    admin = document.get("admin") if isinstance(document, Mapping) else None
    traces = admin.get("traces") if isinstance(admin, Mapping) else None
    headers = traces.get("headers") if isinstance(traces, Mapping) else None
    if not isinstance(headers, Mapping) or REDACTED not in headers.values():
        return document
    known = (now.admin.options.get("traces") or {}).get("headers") or {}
    filled = {name: known.get(name, text) if text == REDACTED else text for name, text in headers.items()}
    return {**document, "admin": {**admin, "traces": {**traces, "headers": filled}}}  # type: ignore[dict-item]


def _is_url(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _are_fields(value: object) -> bool:
    """Names and values of header fields that can be written."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and name and isinstance(text, str) and (name + text).isprintable() and (name + text).isascii()
        for name, text in value.items()
    )


def _is_resource(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and name and isinstance(item, str | int | float | bool) for name, item in value.items()
    )


_GOOD: Mapping[str, Check] = {
    "endpoint": ("a URL, as http://collector:4318", _is_url),
    "ratio": ("a number 0..1", is_part),
    "headers": ("an object of texts", _are_fields),
    "service": ("a name", lambda v: isinstance(v, str) and v != ""),
    "resource": ("an object of texts, numbers, true and false", _is_resource),
    "timeout": ("a number of seconds, 0.1 to 60", lambda v: is_number(v) and 0.1 <= v <= 60),
    "queue": (f"a whole number 1..{MAX_QUEUE}", lambda v: isinstance(v, int) and is_number(v) and 1 <= v <= MAX_QUEUE),
}
"""What is allowed in each field."""
