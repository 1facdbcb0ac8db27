"""JSONDecap: the inverse of JSONEncap; what is no JSON object with a payload becomes an empty message (contract, section 5)."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Stream

if TYPE_CHECKING:
    from carrier.core.session import Session

_OTHERS = re.compile(r"[^A-Za-z0-9+/]+")


class JsonDecapCluster(Cluster):
    """`spec: {protocol: JSONDecap}`."""

    protocol = "JSONDecap"
    kind = "datagram"
    virtual = True

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return JsonDecapStream()


class JsonDecapStream(Stream):
    """Message by message; over a stream of bytes it needs framing in front."""

    __slots__ = ()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last and not data:
            self.to.end()
        else:
            self.to.data(payload(data), None, last)


def payload(message: bytes) -> bytes:
    """The payload of a message, or nothing."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return b""
    text = found.get("payload") if isinstance(found, dict) else None
    return lenient(text) if isinstance(text, str) else b""


def lenient(text: str) -> bytes:
    """Base64 as node reads it: both alphabets, padding or none, anything else skipped, all after a "=" ignored."""
    text = _OTHERS.sub("", text.partition("=")[0].replace("-", "+").replace("_", "/"))
    if len(text) % 4 == 1:  # six bits are no byte
        text = text[:-1]
    return b64decode(text + "=" * (-len(text) % 4))
