"""HTTP/2 (RFC 9113) and HPACK (RFC 7541), bytes in, calls out: no sockets, no clock, for both sides of a connection.

`Engine` is a connection, `Stream` one of its streams; a `Target` is told what comes. `Section` is a head or trailers as they were read;
`Memo` remembers them; `Encoder` and `encode` make blocks of what is sent. `Limits` bounds it all.
"""

from carrier.wire.h2.connection import Target
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.engine import Engine
from carrier.wire.h2.fields import Section
from carrier.wire.h2.frames import PREFACE, Fault, code_name
from carrier.wire.h2.hpack import encode
from carrier.wire.h2.limits import REASONS, Limits
from carrier.wire.h2.memo import Memo
from carrier.wire.h2.stream import Stream

__all__ = ["PREFACE", "REASONS", "Encoder", "Engine", "Fault", "Limits", "Memo", "Section", "Stream", "Target", "code_name", "encode"]
