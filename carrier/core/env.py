"""What the running parts are handed at the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from carrier.core.fence import Fence, Own
from carrier.core.ledger import Ledger, Reader
from carrier.core.names import Names
from carrier.core.resolve import Resolver
from carrier.core.ways import Ways
from carrier.redact import ALWAYS

if TYPE_CHECKING:
    from carrier.core.parts import Cluster, Listener
    from carrier.core.trace import Tracer
    from carrier.errors import Error
    from carrier.model import Bridge, Config


class Tokens(Protocol):
    """The tokens of user bridges."""

    def bridge(self, listener: str, token: bytes) -> Bridge | None:
        """The bridge of this listener that the token belongs to."""

    def bridges(self, listener: str) -> list[Bridge]:
        """Those of this listener that have a token."""

    def user(self, bridge: str) -> str:
        """Whose a bridge is; "" when it is gone."""


def _nobody(event: str, /, **values: object) -> None:
    """Nobody keeps a log."""


class Env:
    """What the running parts are handed at the start: no part reaches back to ask, and nothing is global."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.resolver = Resolver()
        self.warn: Callable[..., None] = _nobody
        self.note: Callable[..., None] = _nobody
        """Lines of the process's log: what somebody has to see to, what happened. They take an event and named values (carrier/log.py)."""
        self.trouble: Callable[[Listener, Error], object] = lambda listener, error: None
        """A connection failed before it was a session: told in that log now and then."""
        self.finish: Callable[[str], object] = _nobody
        """End the process in order, at once; it takes the reason."""
        self.ledger: Ledger | None = None
        """Where sessions that have ended are kept for those who count them, or write lines about them; None: nobody does."""
        self.api: Any = None
        """The REST API, for the one cluster that leads into it."""
        self.gate: Any = None
        """Who may call the REST API (carrier/admin/gate.py); None: everybody who reaches it, which is this machine only."""
        self.api_files: dict[str, tuple[int, int]] = {}
        """Socket files that the REST API listens at, as they were bound -> device and inode: no cluster leads there."""
        self.fence = Fence()
        """Where user bridges may lead."""
        self.ways = Ways()
        """Connections of ours that came to listeners of ours."""
        self.own = Own()
        """Where our own listeners are."""
        self.hidden = ALWAYS
        """What logs and reasons do not show."""
        self.insecure_admin = False
        self.file: str | None = None
        """The configuration file, for who asks which carrier this is."""
        self.bridges_of_file: Callable[[Config], Mapping[str, Bridge]] = lambda config: {}
        """User bridges that the configuration's format has itself, by their rules' names: shown beside those that REST made."""
        self.tokens: Tokens | None = None
        """Finds the user bridge that a token belongs to."""
        self.renewing: list[Any] = []
        """Certificates whose files are to be looked at next."""
        self.looking: asyncio.Task[None] | None = None
        """Looks at them."""
        self.clusters: Mapping[str, Cluster] = {}
        """The clusters in force, for a session that looks its route's names up again."""
        self.listeners: Mapping[str, Listener] = {}
        """The listeners in force, for who counts them."""
        self._tracer: Tracer | None = None
        self._recorder: Any = None
        self.watched: Tracer | bool = False
        """Somebody traces, or records: what begins is to be looked at. The tracer: nobody records."""
        self.names = Names()
        """The names of sessions that could clash."""

    @property
    def tracer(self) -> Tracer | None:
        """Who decides which requests are traced; None: none is."""
        return self._tracer

    @tracer.setter
    def tracer(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self.watched = self._recorder is not None or tracer or False

    @property
    def recorder(self) -> Any:
        """Who records what passes (carrier/observe/record.py); None: nobody does."""
        return self._recorder

    @recorder.setter
    def recorder(self, recorder: Any) -> None:
        self._recorder = recorder
        self.watched = recorder is not None or self._tracer or False

    def read(self, reader: Reader) -> Ledger:
        """Tell a reader of the sessions that end, in batches."""
        if self.ledger is None:
            self.ledger = Ledger(self.loop)
        self.ledger.readers.append(reader)
        return self.ledger

    def guard(self, what: str, call: Callable[..., object], *args: Any) -> None:
        """Call somebody else's code where its failure may not stop ours: it is reported to the loop's exception handler."""
        try:
            call(*args)
        except Exception as exc:
            self.loop.call_exception_handler({"message": f"{what} failed: {exc}", "exception": exc})
