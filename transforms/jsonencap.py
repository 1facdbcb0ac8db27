"""JSONEncap: each message becomes `{"metadata":{...},"payload":"<base64>"}`, without whitespace (contract, section 5)."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Stream
from carrier.wire.jsonheader import compact

if TYPE_CHECKING:
    from carrier.core.session import Session


class JsonEncapCluster(Cluster):
    """`spec: {protocol: JSONEncap}`."""

    protocol = "JSONEncap"
    kind = "datagram"
    virtual = True

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return JsonEncapStream(session)


class JsonEncapStream(Stream):
    """The metadata of a session does not change: all but the payload is made once."""

    __slots__ = ("prefix",)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.prefix = b'{"metadata":' + compact(session.metadata) + b',"payload":"'

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last and not data:
            self.to.end()
        else:
            self.to.data(self.prefix + b64encode(data) + b'"}', None, last)
