"""PIPE cluster: the endpoint's address is a named pipe that is written to; answers are read from the named pipe `reply`.

A pipe that nobody reads is a refused upstream. Without `reply` any number of sessions write, and none is answered; with it one at a
time, because a pipe does not say whose answer it carries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem, from_os
from carrier.hops.pipe import PipeStream, open_pipe

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.hops.filestream import FileStream


class PipeCluster(Cluster):
    """`spec: {protocol: PIPE, reply}`."""

    protocol = "PIPE"
    privileged = {"protocol": "reads and writes files"}
    fields = {"reply": "a named pipe to read answers from"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.reply = str(conf.spec.get("reply") or "")
        self.busy: FileStream | None = None

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        reply = spec.get("reply", "x")
        wrong = [Problem(f"expected a path, got {reply!r}", f"{path}.reply", seen=repr(reply), allowed=cls.fields["reply"])]
        return super().check(spec, path) + ([] if isinstance(reply, str) and reply else wrong)

    def ready(self, session: Session, endpoint: Endpoint | None) -> FileStream:
        assert endpoint is not None
        if self.reply and self.busy is not None and not self.busy.closed:
            raise Error("overload", f"{self.reply}: another session waits for its answer there", "upstream", "yes")
        where, reader, writer = endpoint.host, None, None
        try:
            writer = open_pipe(where, os.O_WRONLY)
            if self.reply:
                where = self.reply
                reader = open_pipe(where, os.O_RDONLY)
        except (OSError, ValueError) as exc:
            if writer is not None:
                os.close(writer)
            raise _refused(where, exc) from None
        stream = PipeStream(self.env.loop, reader, writer, "upstream")
        stream.session = session
        if self.reply:
            self.busy = stream
        return stream


def _refused(name: str, exc: OSError | ValueError) -> Error:
    if isinstance(exc, OSError) and exc.errno != 6:  # ENXIO: fifo(7)
        return from_os(exc, "upstream", name, "yes")
    reason = "nobody reads it" if isinstance(exc, OSError) else str(exc)
    return Error("refused", f"{name}: {reason}", "upstream", "yes")
