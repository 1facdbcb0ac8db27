"""What the parts of the core know of each other: a session of its listener, its cluster and the whole, a ledger of what has ended.

Each is a class of its own, in a file further down the list of rooms: `core/listener.py`, `core/cluster.py`, `core/env.py`. What is asked
of one from above it stands here, so that no import goes in a circle, and so that it shows how little that is. Whoever is handed one of
these further up knows its class, and says that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from carrier.core.endpoint import Endpoint
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.fence import Fence, Own
    from carrier.core.spec import Kind
    from carrier.core.stream import Socket, Stream
    from carrier.core.trace import Tracer
    from carrier.redact import Hidden


class Env(Protocol):
    """What all parts were handed at the start (core/env.py)."""

    watched: Tracer | bool
    recorder: Any
    loop: asyncio.AbstractEventLoop
    warn: Callable[..., None]
    note: Callable[..., None]
    hidden: Hidden
    fence: Fence
    own: Own

    @property
    def clusters(self) -> Mapping[str, Cluster]: ...
    @property
    def ledger(self) -> Ledger | None: ...

    def guard(self, what: str, call: Callable[..., object], *args: Any) -> None: ...


class Ledger(Protocol):
    """Where what has ended is kept until somebody reads it (core/ledger.py)."""

    ended: list[Any]
    timer: asyncio.TimerHandle | None

    def due(self) -> None: ...
    def refused(self, refusal: Any) -> None: ...


class Listener(Protocol):
    """Where a session came from (core/listener.py)."""

    conf: config.Listener
    name: str
    protocol: ClassVar[str]
    counter: int
    listed: bool
    track: float
    table: Any  # carrier/core/decision.py, which knows of these

    @property
    def env(self) -> Env: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def gives_names(self) -> bool: ...
    def session_name(self, session: Any) -> str: ...
    def metadata(self, session: Any) -> dict[str, Any]: ...
    def ended(self, session: Any) -> None: ...


class Health(Protocol):
    """Which endpoints are up (core/health.py)."""

    def failed(self, endpoint: Endpoint, error: Error) -> None: ...
    def connected(self, endpoint: Endpoint) -> None: ...
    def why_down(self) -> Error: ...


class Breaker(Protocol):
    """How much at a time (core/breaker.py)."""

    def retry(self) -> bool: ...
    def retried(self) -> None: ...


class Cluster(Protocol):
    """Where a session goes (core/cluster.py)."""

    conf: config.Cluster
    name: str
    same_length: ClassVar[bool]
    only: Endpoint | None
    down: bool
    sessions_elsewhere: int

    @property
    def env(self) -> Env: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def endpoints(self) -> Sequence[Endpoint]: ...
    @property
    def health(self) -> Health: ...
    @property
    def breaker(self) -> Breaker: ...
    @property
    def protocol(self) -> str: ...
    @property
    def virtual(self) -> bool: ...
    @property
    def admin(self) -> bool: ...
    @property
    def label(self) -> str:
        """What people call it."""

    @property
    def sessions_total(self) -> int: ...
    @property
    def failover(self) -> bool: ...
    @property
    def messages_only(self) -> bool: ...
    def tunnels(self, session: Any) -> bool: ...
    def takes_h2(self) -> bool: ...
    def first_asked(self) -> asyncio.Task[None] | None: ...
    def whose_turn(self) -> Endpoint | None: ...
    def turn_taken(self) -> None: ...
    def choose(self, session: Any, tried: Collection[str] = ()) -> Endpoint: ...
    def ready(self, session: Any, endpoint: Endpoint | None) -> Stream | None: ...
    async def open(self, session: Any, endpoint: Endpoint) -> Socket: ...
    @property
    def drained(self) -> Collection[str]: ...
    async def reach(self, session: Any, endpoint: Endpoint, timeout: float) -> Socket: ...
    async def probe(self, endpoint: Endpoint, health: Any) -> None: ...


class Session(Protocol):
    """One stream end to end, for those who only name it or count it (core/session.py)."""

    status: str
    ended_at: float
    source_done: bool
    dropped: int

    @property
    def listener(self) -> Listener: ...
