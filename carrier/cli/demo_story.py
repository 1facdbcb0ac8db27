"""The story of the demo: what happens in a shared cluster, one claim after the other, each checked against what came over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.cli.demo_asking import REQUESTS, Client, Datagrams, Reply, Run, ask, ask2, call, talk
from carrier.cli.demo_page import Claim, Page
from carrier.cli.demo_peers import HOST, Workload

if TYPE_CHECKING:
    from carrier.cli.demo_stage import Stage

PATIENCE = 30.0
"""Seconds that one claim may take."""
MARK = "x-carrier-fallback"
JANES = [{"matchPath": {"path": "/cart", "type": "prefix"}}, {"matchHeader": {"name": "x-user", "value": "jane"}}]


class Story:
    """The claims, in order. `held` has one truth for each that was told."""

    def __init__(self, stage: Stage, page: Page) -> None:
        self.stage = stage
        self.page = page
        self.held: list[bool] = []

    async def tell(self) -> None:
        """Play all of it; a claim that breaks down has not held."""
        chapters: list[Callable[[], Awaitable[Claim]]] = [
            self.nobody_has_a_bridge,
            self.john_makes_one,
            self.john_gets_his,
            self.jane_makes_one,
            self.jane_gets_hers,
            self.jane_elsewhere,
            self.everybody_else,
            self.eve_wants_janes,
            self.janes_laptop_sleeps,
            self.it_wakes_up,
            self.a_bridge_comes_and_goes,
            self.tcp,
            self.udp,
            self.websocket,
            self.http_2,
            self.grpc,
        ]
        for chapter in chapters:
            try:
                async with asyncio.timeout(PATIENCE):
                    claim = await chapter()
            except Exception as exc:  # whatever it was, it is not what we promise
                claim = Claim(chapter.__name__.replace("_", " "), "failed", f"{type(exc).__name__}: {exc}", False)
            self.held.append(claim.held)
            self.page.claim(len(self.held), claim)

    async def _get(self, what: str, path: str, headers: dict[str, str], who: str, rule: str, mark: str | None = None) -> Claim:
        """A GET through the proxy that should be answered by `who`, decided by `rule`, marked as fallback by `mark`."""
        reply = await ask(self.stage.web, "GET", path, headers)
        why = await self.stage.decider()
        marked = reply.headers.get(MARK)
        held = (reply.status, reply.who, marked) == (200, who, mark) and why.startswith(f"{rule}:")
        outcome = (reply.who if reply.status == 200 else f"status {reply.status}") + (f", {MARK}: {marked}" if marked else "")
        return Claim(what, outcome, why, held)

    async def _put(self, name: str, user: str, match: Any, endpoint: Workload) -> Reply:
        body = {"port": self.stage.web, "user": user, "match": match, "endpoint": f"{HOST}:{endpoint.port}"}
        return await ask(self.stage.api, "PUT", f"/api/v1/bridges/{name}", body=body)

    async def nobody_has_a_bridge(self) -> Claim:
        return await self._get("GET /", "/", {}, "shadow", "everybody-web")

    async def john_makes_one(self) -> Claim:
        reply = await self._put("john", "john", {"matchHeader": {"name": "x-user", "value": "john"}}, self.stage.john)
        return Claim("john: PUT /bridges/john", f"{reply.status}", self.stage.words("bridge/john"), reply.status == 201)

    async def john_gets_his(self) -> Claim:
        return await self._get("GET /  x-user: john", "/", {"x-user": "john"}, "john's laptop", "bridge/john")

    async def jane_makes_one(self) -> Claim:
        reply = await self._put("jane", "jane", JANES, self.stage.jane)
        return Claim("jane: PUT /bridges/jane", f"{reply.status}", self.stage.words("bridge/jane"), reply.status == 201)

    async def jane_gets_hers(self) -> Claim:
        return await self._get("GET /cart/7  x-user: jane", "/cart/7", {"x-user": "jane"}, "jane's laptop", "bridge/jane")

    async def jane_elsewhere(self) -> Claim:
        return await self._get("GET /  x-user: jane", "/", {"x-user": "jane"}, "shadow", "everybody-web")

    async def everybody_else(self) -> Claim:
        return await self._get("GET /cart/7", "/cart/7", {}, "shadow", "everybody-web")

    async def eve_wants_janes(self) -> Claim:
        reply = await self._put("eve", "eve", list(reversed(JANES)), self.stage.john)
        reason = str(msgspec.json.decode(reply.body).get("content"))
        held = reply.status == 409 and "'jane'" in reason and "eve" not in self.stage.server.proxy.config.bridges
        return Claim("eve: PUT /bridges/eve, with jane's rule", f"{reply.status}, refused", "nothing has changed", held, reason)

    async def janes_laptop_sleeps(self) -> Claim:
        await self.stage.jane.down()
        what = "jane's laptop is down: her GET /cart/7"
        return await self._get(what, "/cart/7", {"x-user": "jane"}, "shadow", "bridge/jane", "refused")

    async def it_wakes_up(self) -> Claim:
        await self.stage.jane.up()
        what = "jane's laptop is back: her GET /cart/7"
        return await self._get(what, "/cart/7", {"x-user": "jane"}, "jane's laptop", "bridge/jane")

    async def a_bridge_comes_and_goes(self) -> Claim:
        """ida's bridge is made and deleted again and again while her requests run; each must be answered by the one or the other."""
        run = Run(self.stage.web, {"x-user": "ida"})
        body = {"port": self.stage.web, "user": "ida", "match": {"matchHeader": {"name": "x-user", "value": "ida"}}}
        made = msgspec.json.encode({**body, "endpoint": f"{HOST}:{self.stage.john.port}"})
        statuses: list[int] = []
        running = asyncio.ensure_future(run.all())
        try:
            async with Client(self.stage.api) as api:
                while not run.over or len(statuses) % 2:
                    if len(statuses) % 2:
                        reply = await api.ask("DELETE", "/api/v1/bridges/ida")
                    else:
                        reply = await api.ask("PUT", "/api/v1/bridges/ida", {"content-type": "application/json"}, made)
                    statuses.append(reply.status)
                    await run.some()
            await running
        finally:
            running.cancel()
        self.stage.forget()
        shadow, laptop = run.answered["shadow"], run.answered["john's laptop"]
        held = shadow + laptop == REQUESTS and min(shadow, laptop) > 0 and set(statuses) == {200, 201}
        why = f"{shadow:,} by the shadow, {laptop:,} by the bridge; {len(statuses)} changes"
        return Claim(f"{REQUESTS:,} requests while ida's bridge comes and goes", f"{REQUESTS - shadow - laptop} lost", why, held)

    async def tcp(self) -> Claim:
        reader, writer = await asyncio.open_connection(HOST, self.stage.tcp)
        writer.write(b"x" * 100_000)
        echoed = len(await reader.readexactly(100_000))
        why = self.stage.live("tcp")
        writer.write_eof()
        ended = await reader.read() == b""
        writer.close()
        return Claim(
            "TCP, 100,000 bytes and an end", "shadow, echoed", why, echoed == 100_000 and ended and why.startswith("everybody-tcp:")
        )

    async def udp(self) -> Claim:
        loop = asyncio.get_running_loop()
        transport, datagrams = await loop.create_datagram_endpoint(Datagrams, remote_addr=(HOST, self.stage.udp))
        try:
            for text in (b"one", b"two", b"three"):
                transport.sendto(text)
            came = sorted([await datagrams.came.get() for _ in range(3)])
            why = self.stage.live("udp")
        finally:
            transport.close()
        return Claim("UDP, three datagrams", "shadow, echoed", why, came == [b"one", b"three", b"two"] and why.startswith("everybody-udp:"))

    async def websocket(self) -> Claim:
        status, answer, why = await talk(self.stage.web, {"x-user": "john"}, "hello", lambda: self.stage.live("web"))
        held = (status, answer) == (101, "john's laptop: hello") and why.startswith("bridge/john:")
        return Claim("john's WebSocket, by Upgrade, says hello", f"{status}, {answer.partition(':')[0] or 'nobody'}", why, held)

    async def http_2(self) -> Claim:
        """HTTP/2 in, HTTP/1.1 out: the same port, the same rule, the same laptop."""
        self.stage.forget()
        reply = await ask2(self.stage.web, "GET", "/", {"x-user": "john"})
        why = await self.stage.decider()
        said = (self.stage.john.version, reply.status, reply.who)
        held = said == ("1.1", 200, "john's laptop") and why.startswith("bridge/john:")
        return Claim("john's GET / in HTTP/2", f"{reply.who or reply.status}, in HTTP/{self.stage.john.version}", why, held)

    async def grpc(self) -> Claim:
        """A port of gRPC, and a bridge on it: john's calls go to the server on his laptop, all others to the shadow's."""
        shadow = {"spec": {"protocol": "auto", "port": self.stage.shadow_grpc.port}, "endpoints": [{"spec": {"address": HOST}}]}
        rule = {"name": "everybody-grpc", "action": {"route": {"destination": {"name": "shadow-grpc", **shadow}}}}
        port = {"name": "grpc", "spec": {"protocol": "auto", "port": self.stage.grpc, "address": HOST}, "rules": [rule]}
        match = {"matchHeader": {"name": "x-user", "value": "john"}}
        body = {"listener": "grpc", "user": "john", "match": match, "endpoint": f"{HOST}:{self.stage.john_grpc.port}"}
        statuses = [
            (await ask(self.stage.api, "POST", "/api/v1/listeners", body={"listener": port})).status,
            (await ask(self.stage.api, "PUT", "/api/v1/bridges/john-grpc", body=body)).status,
        ]
        his = await call(self.stage.grpc, "/demo.Cart/Get", {"x-user": "john"})
        others = await call(self.stage.grpc, "/demo.Cart/Get", {})
        why = self.stage.words("bridge/john-grpc")
        statuses += [
            (await ask(self.stage.api, "DELETE", "/api/v1/bridges/john-grpc")).status,
            (await ask(self.stage.api, "DELETE", "/api/v1/listeners/grpc?recursive=true")).status,
        ]
        held = (statuses, his, others) == ([200, 201, 200, 200], ("0", "john's laptop"), ("0", "shadow"))
        outcome = ", ".join(who if status == "0" else f"status {status}" for status, who in (his, others))
        return Claim("gRPC /demo.Cart/Get: john's call, nobody's", outcome, why, held)
