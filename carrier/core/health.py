"""Is an endpoint up? The one place that knows; balancing, fallback and user bridges ask `Endpoint.up` and `Cluster.down`.

Passive, always on: `failures` attempts to connect that fail one after the other take an endpoint down, until a probe connects to it
(every `interval` seconds). As many answers that fail one after the other (none came, or no HTTP) take it down for `down` seconds, if there
are others: an only one that takes connections is asked again at once, because whoever stood at a breakpoint goes on.
A session that ended well in between, by the endpoint's own counters, begins the count anew, so that success costs nothing.
Active, when configured: every endpoint is probed every `interval` seconds; `unhealthy` failures in a row take it down, `healthy` successes
bring it up. What is probed is the cluster's affair (`Cluster.probe`): a TCP connection, or a request.

Down means: not chosen while another is up. When all are down they are tried all the same, unless the route has a fallback, which then
serves at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.errors import Error, Problem
from carrier.options import check_numbers, numbers

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.parts import Cluster

OPTIONS: Mapping[str, float] = {"failures": 5, "down": 10, "interval": 1, "timeout": 2, "healthy": 2, "unhealthy": 3}
"""Numbers (in a row) and seconds, with their defaults; `failures` 0: never passively down."""
TEXTS = ("active", "path", "host", "service")
ACTIVE = ("TCP", "HTTP", "GRPC")
LONGEST, SERVICE = 8192, 127
"""Characters of the path, and of the service, that a probe may ask for."""
ANSWERS = ("closed", "reset", "bad-answer", "timeout")
"""Kinds of errors of an upstream that was connected to."""


class State:
    """What is known of an endpoint that is, or was, in trouble. good: its sessions that had ended well at the last look. until:
    monotonic seconds when it may be tried again; None: when a probe succeeds. since: when it went down. next: when the next probe is due.
    kind, reason: of the error that took it down, for programs and for people."""

    __slots__ = ("answers", "connects", "failed", "good", "kind", "last", "next", "probing", "reason", "since", "succeeded", "until")

    def __init__(self) -> None:
        self.connects = self.answers = self.failed = self.succeeded = 0
        self.good = 0
        self.until: float | None = None
        self.next = self.since = 0.0
        self.kind = self.reason = ""
        self.last: Error | None = None
        """How the last session failed; None once one has not."""
        self.probing: asyncio.Task[None] | None = None


class Health:
    """The health of one cluster's endpoints. options: see OPTIONS; `active`: one of ACTIVE, with `path` and `host` for HTTP, `service` for
    GRPC."""

    def __init__(self, cluster: Cluster, options: Mapping[str, Any]) -> None:
        self.cluster = cluster
        limits = numbers(options, OPTIONS)
        self.failures, self.down = limits["failures"], limits["down"]
        self.interval, self.timeout = limits["interval"], limits["timeout"]
        self.healthy, self.unhealthy = limits["healthy"], limits["unhealthy"]
        self.active = options.get("active") if options.get("active") in ACTIVE else None
        self.path, self.host = str(options.get("path") or "/"), str(options.get("host") or "")
        self.service = str(options.get("service") or "")
        self.states: dict[Endpoint, State] = {}

    def _state(self, endpoint: Endpoint) -> State:
        state = self.states.get(endpoint)
        if state is None:
            state = self.states[endpoint] = State()
        return state

    # ------------------------------------------------------------------ what sessions tell

    def failed(self, endpoint: Endpoint, error: Error) -> None:
        """A session could not connect to the endpoint, or got no answer from it. A stale idle connection says nothing."""
        if not self.failures or error.retry == "if_reused" or error.side != "upstream":
            return
        if error.kind == "overload":  # our own limits, or our own descriptors
            return
        state = self._state(endpoint)
        state.last = error
        if error.retry == "yes":
            state.connects += 1
            if state.connects >= self.failures and endpoint.up:
                self._take_down(endpoint, state, error.kind, f"{state.connects} connections failed: {error.detail}", None)
        elif error.kind in ANSWERS and len(self.cluster.endpoints) > 1:
            good = endpoint.total - endpoint.active - endpoint.failed
            if good > state.good:
                state.answers = 0
            state.good = good
            state.answers += 1
            if state.answers >= self.failures and endpoint.up:
                until = self.cluster.env.loop.time() + self.down
                self._take_down(endpoint, state, error.kind, f"{state.answers} answers failed: {error.detail}", until)

    def connected(self, endpoint: Endpoint) -> None:
        """A connection to the endpoint has been made."""
        state = self.states.get(endpoint)
        if state is not None:
            state.connects = 0
            if state.last is not None and state.last.retry == "yes":
                state.last = None

    # ------------------------------------------------------------------ up and down

    def _take_down(self, endpoint: Endpoint, state: State, kind: str, reason: str, until: float | None) -> None:
        endpoint.up = False
        state.kind, state.reason, state.until = kind, reason, until
        state.next = 0.0
        env = self.cluster.env
        state.since = env.loop.time()
        failed = state.connects or state.answers or None
        env.warn("endpoint is down", cluster=self.cluster.label, endpoint=endpoint.address, reason=reason, sessions=failed)

    def _bring_up(self, endpoint: Endpoint, state: State) -> None:
        endpoint.up = True
        env = self.cluster.env
        seconds = round(env.loop.time() - state.since, 1)
        probed = state.until is None  # else its time is over: nobody knows whether it is well
        env.note(
            "endpoint is up" if probed else "endpoint is tried again",
            cluster=self.cluster.label,
            endpoint=endpoint.address,
            after=f"{seconds:g}s",
        )
        state.kind, state.reason, state.until = "", "", None
        state.connects = state.answers = state.failed = 0
        state.last = None

    def why_down(self) -> Error:
        """Why nobody is tried when all endpoints are down: of the kind of error that took the first of them down."""
        down = [(endpoint, self.states[endpoint]) for endpoint in self.cluster.endpoints if endpoint in self.states and not endpoint.up]
        kind = down[0][1].kind if down else "no-endpoint"
        reasons = "".join(f"; {endpoint.name}: {state.reason}" for endpoint, state in down)
        return Error(kind, f"every endpoint of {self.cluster.name!r} is down{reasons}", "upstream", "yes")

    def report(self) -> list[dict[str, Any]]:
        """For people: each endpoint, whether it is up, and why not, or how it failed last although it is."""
        return [{"name": e.name, "up": e.up, "reason": self._reason(self.states.get(e))} for e in self.cluster.endpoints]

    @staticmethod
    def _reason(state: State | None) -> str:
        if state is None:
            return ""
        return state.reason or (state.last.detail if state.last is not None else "")

    # ------------------------------------------------------------------ probes

    def tick(self, now: float) -> None:
        """Once a second: who may come back, who is to be probed."""
        if self.states:
            for gone in self.states.keys() - set(self.cluster.endpoints):
                self._forget(gone)
        for endpoint in self.cluster.endpoints if self.active else list(self.states):
            state = self._state(endpoint)
            if endpoint.up:
                if self.active:
                    self._probe(endpoint, state, now)
            elif state.until is not None and not self.active:
                if now >= state.until:
                    self._bring_up(endpoint, state)
            else:
                self._probe(endpoint, state, now)

    def _probe(self, endpoint: Endpoint, state: State, now: float) -> None:
        if state.probing is None and now >= state.next:
            state.next = now + self.interval
            state.probing = self.cluster.env.loop.create_task(self._run(endpoint, state))

    async def _run(self, endpoint: Endpoint, state: State) -> None:
        kind = reason = ""
        try:
            async with asyncio.timeout(self.timeout):
                await self.cluster.probe(endpoint, self)
        except TimeoutError:
            kind, reason = "timeout", f"no answer within {self.timeout:g} s"
        except Error as error:
            kind, reason = error.kind, error.detail
        except Exception as exc:  # a protocol's own mistake is a failed probe
            kind, reason = "internal", f"{type(exc).__name__}: {exc}"
        finally:
            state.probing = None
        if reason:
            state.succeeded = 0
            state.failed += 1
            if self.active and endpoint.up and state.failed >= self.unhealthy:
                self._take_down(endpoint, state, kind, f"{state.failed} probes failed: {reason}", None)
            return
        state.failed = 0
        state.succeeded += 1
        if not endpoint.up and state.succeeded >= (self.healthy if self.active else 1):
            self._bring_up(endpoint, state)

    def _forget(self, endpoint: Endpoint) -> None:
        state = self.states.pop(endpoint)
        if state.probing is not None:
            state.probing.cancel()

    def stop(self) -> None:
        """The cluster is gone: probe nothing more."""
        for endpoint in list(self.states):
            self._forget(endpoint)


def check(options: Any, path: str) -> list[Problem]:
    """Everything wrong with the `health` option of a cluster, by the strict standard."""
    if not isinstance(options, Mapping):
        return [Problem(f"expected an object, got {options!r}", path, seen=repr(options), allowed=", ".join([*OPTIONS, *TEXTS]))]
    found = check_numbers(options, OPTIONS, path, TEXTS)
    active = options.get("active")
    if active is not None and active not in ACTIVE:
        found.append(Problem(f"unknown kind of probe {active!r}", f"{path}.active", seen=repr(active), allowed=", ".join(ACTIVE)))
    for name, most in (("path", LONGEST), ("host", 255), ("service", SERVICE)):
        value = options.get(name, "")
        good = isinstance(value, str) and all("!" <= c <= "~" for c in value) and (name != "path" or value[:1] in ("", "/"))
        if not good:
            found.append(Problem(f"cannot be sent: {value!r}", f"{path}.{name}", seen=repr(value), allowed="visible ASCII"))
        elif len(value) > most:
            found.append(Problem("too long", f"{path}.{name}", seen=f"{len(value)} characters", allowed=f"at most {most}"))
    return found
