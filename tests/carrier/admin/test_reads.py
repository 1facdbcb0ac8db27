"""What is read over the REST API."""

from __future__ import annotations

import asyncio
import contextlib
import json

from carrier.admin.api import Api
from tests.support import Peer, cluster, config, listener, port_of, running, tcp, tcp_server, wait_until


async def silent(peer: Peer) -> None:
    """An HTTP server that never answers."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await peer.reader.read()


async def test_sessions_are_listed_and_found_by_name_without_naming_the_others_for_good() -> None:
    async with tcp_server(silent) as server:
        conf = config(
            clusters=[cluster("up", server.port, protocol="HTTP")],
            listeners=[listener("web", "up", protocol="HTTP"), listener("raw", "up")],
        )
        async with (
            running(conf) as proxy,
            tcp(port_of(proxy, "web")) as a,
            tcp(port_of(proxy, "web")) as b,
            tcp(port_of(proxy, "raw")) as c,
        ):
            for client in (a, b, c):
                client.send(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
            await wait_until(lambda: [session.status for session in proxy.sessions()] == ["CONNECTED"] * 3)
            shown = json.loads((await Api(proxy).call("GET", "/api/v1/sessions")).body)
            names = [session["name"] for session in shown]
            assert len(set(names)) == 3 and all(session["events"][0]["message"].split()[1] == session["name"] for session in shown)
            assert not any(session._name or session._metadata for session in proxy.listeners["web"].live)
            web = next(name for name in names if name.startswith("HTTP:"))
            found = proxy.find_session(web)
            assert found is not None and found.name == web
            others = [session for session in proxy.listeners["web"].live if session is not found]
            assert len(others) == 1 and others[0]._name is None
            raw = next(name for name in names if name.startswith("TCP:"))
            assert proxy.find_session(raw) is not None and proxy.find_session("HTTP:nobody-7") is None
