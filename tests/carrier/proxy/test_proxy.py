"""`Proxy.apply`: all or nothing, what is unchanged stays, sessions live on, and the REST API is on loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carrier import model as cfg
from carrier.admin.gate import Gate, Tokens
from carrier.core import registry
from carrier.core.cluster import Cluster
from carrier.core.listener import Listener
from carrier.core.session import Session
from carrier.errors import ConfigError, Error
from carrier.model import Config
from carrier.proxy.proxy import Proxy
from tests.ports import free_port
from tests.support import ask, cluster, config, echo, echoing, listener, port_of, running, tcp, tcp_server, udp, wait_until, without

API = {"name": "api", "spec": {"protocol": "L7mpController"}}


def state(proxy: Proxy) -> tuple[Any, ...]:
    """Everything that a failed change must leave as it was."""
    endpoints = {name: [(id(e), e.weight) for e in c.endpoints] for name, c in proxy.clusters.items()}
    tables = {name: id(one.table) for name, one in proxy.listeners.items()}
    bound = {name: [s.fileno() for s in one.bound] for name, one in proxy.listeners.items()}
    ids = {name: id(one) for name, one in (*proxy.listeners.items(), *proxy.clusters.items())}
    return proxy.config, endpoints, tables, bound, ids, id(proxy.admin)


@contextlib.contextmanager
def unchanged(proxy: Proxy) -> Iterator[None]:
    before = state(proxy)
    yield
    assert state(proxy) == before


def replaced(conf: Config, kind: str, name: str, **fields: Any) -> Config:
    """`conf` with fields of one object set as they are, past the checks of the edits: apply must stand on its own."""
    table = dict(getattr(conf, kind))
    table[name] = msgspec.structs.replace(table[name], **fields)
    return msgspec.structs.replace(conf, **{kind: table})


def free(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                sock.listen()
        except OSError:
            return False
    return True


# --- all or nothing ---------------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_leaves_everything_as_it_was_and_frees_what_was_bound_meanwhile() -> None:
    stream, datagram = free_port(), free_port(socket.SOCK_DGRAM)
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy, tcp_server() as other:
        new = config(
            clusters=[echo("more"), {"name": "echo", "spec": {"protocol": "Discard"}}],
            listeners=[
                listener("first", port=stream),
                listener("second", protocol="UDP", port=datagram),
                listener("third", port=other.port),
            ],
            base=proxy.config,
        )
        with unchanged(proxy), pytest.raises(Error, match=f"Could not bind to 127.0.0.1:{other.port}") as error:
            await proxy.apply(new)
        assert error.value.status == 400
        assert free(stream) and free(datagram, socket.SOCK_DGRAM)
        assert await ask(port_of(proxy, "in"), b"x") == b"x"


@pytest.mark.parametrize("weight", ["heavy", -1, float("inf"), float("nan"), True, None])
@pytest.mark.parametrize("policy", ["Trivial", "HashRing", "round_robin"])
async def test_a_cluster_update_that_cannot_be_carried_out_is_refused_before_anything_changes(weight: Any, policy: str) -> None:
    conf = config(clusters=[cluster("a", 1), cluster("c", 1)], listeners=[listener("in", "c")])
    async with running(conf) as proxy:
        new = replaced(conf, "clusters", "a", endpoints=())
        endpoints = (cfg.EndPoint("e", {"address": "127.0.0.1"}, weight),)
        new = replaced(new, "clusters", "c", loadbalancer=cfg.LoadBalancer(policy), endpoints=endpoints)
        with unchanged(proxy), pytest.raises(ConfigError, match=r"clusters\[c\].endpoints\[0\].weight"):
            await proxy.apply(new)


async def test_every_problem_of_the_clusters_is_reported_at_once() -> None:
    conf = config(clusters=[cluster("a", 1), cluster("b", 1), echo()])
    new = replaced(conf, "clusters", "a", spec={"protocol": "Carrier pigeon"})
    new = replaced(new, "clusters", "b", spec={"protocol": ["TCP"]})
    new = replaced(new, "clusters", "echo", endpoints=(cfg.EndPoint("e", {}),))
    async with running() as proxy:
        with unchanged(proxy), pytest.raises(ConfigError) as error:
            await proxy.apply(new)
        assert [p.path for p in error.value.problems] == [
            "clusters[a].spec.protocol",
            "clusters[b].spec.protocol",
            "clusters[echo].endpoints",
        ]


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "HTTP"])
@pytest.mark.parametrize("port", ["x", None, 70000, -1, 1.5, [], True])
async def test_a_listener_with_an_odd_port_is_refused_or_bound_and_the_process_lives(protocol: str, port: Any) -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        base = proxy.config
        odd = cfg.Listener("odd", {"protocol": protocol, "port": port, "address": "127.0.0.1"}, base.listeners["in"].rules)
        with contextlib.suppress(Error):  # 1.5 and True are numbers to a socket or not: either way nothing else may happen
            await proxy.apply(msgspec.structs.replace(base, listeners={**base.listeners, "odd": odd}))
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        assert ("odd" in proxy.listeners) == ("odd" in proxy.config.listeners)
        if port in ("x", None, 70000, -1, []):
            assert proxy.config is not None and "odd" not in proxy.listeners


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "WebSocket"])
@pytest.mark.parametrize(("spec", "seen"), [({}, "None"), ({"port": "x"}, "'x'"), ({"port": 70000}, "70000"), ({"port": 1.5}, "1.5")])
async def test_a_port_that_is_none_is_refused_in_words(protocol: str, spec: dict[str, Any], seen: str) -> None:
    async with running(config()) as proxy:
        odd = cfg.Listener("odd", {"protocol": protocol, **spec}, "rules")
        with unchanged(proxy), pytest.raises(Error) as error:
            await proxy.apply(msgspec.structs.replace(proxy.config, listeners={"odd": odd}))
        assert error.value.detail == f'"odd": expected a port 0..65535, got {seen}'


@pytest.mark.parametrize(
    ("protocol", "fields"),
    [
        ("TCP", {"options": {"track": "x", "half_close_timeout": "x", "max_connections": "x"}}),
        ("UDP", {"options": {"track": None, "max_sessions": "x", "idle_timeout": []}}),
        ("UDP", {"spec": {"connect": "x"}}),
        ("UDP", {"spec": {"options": "x"}}),
        ("HTTP", {"options": {"header_timeout": "x", "trusted": 5, "max_head": {}}}),
        ("TCP", {"spec": {"address": 5}}),
        ("TCP", {"spec": {"address": "nowhere"}}),
    ],
)
async def test_options_of_a_wrong_type_are_refused_or_ignored_and_ticks_go_on(protocol: str, fields: Any) -> None:
    conf = config(clusters=[echo()], listeners=[listener("in")])
    async with running(conf) as proxy:
        before = proxy.config
        try:
            await proxy.apply(config(listeners=[listener("odd", protocol=protocol, **fields)], base=conf))
        except Error:
            assert proxy.config is before
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        assert proxy.timer is not None
        proxy.timer.cancel()
        proxy._tick()


@pytest.mark.parametrize("spec", [{}, {"address": None}, {"address": 5}, {"address": ""}, {"address": "a\0b"}, {"address": "fe80::1%none"}])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "HTTP"])
async def test_an_endpoint_with_an_odd_address_fails_its_sessions_only(spec: Any, protocol: str) -> None:
    retry = {"timeout": 200}
    bad = {"name": "bad", "spec": {"protocol": protocol, "port": 9}, "endpoints": [{"spec": spec}]}
    conf = config(clusters=[bad, echo()], listeners=[listener("in", "bad", retry=retry, options={"track": 9}), listener("good")])
    async with running(conf) as proxy:
        with contextlib.suppress(OSError):
            await ask(port_of(proxy, "in"), b"x")
        await wait_until(lambda: all(s.status == "DESTROYED" for s in proxy.sessions()))
        assert await ask(port_of(proxy, "good"), b"x") == b"x"


class Grumpy(Cluster):
    """Fails where the core cannot foresee it."""

    protocol = "Grumpy"
    virtual = True

    def close(self) -> None:
        raise RuntimeError("I will not close")

    def tick(self, now: float) -> None:
        raise RuntimeError("I will not tick")


class Lame(Listener):
    protocol = "Lame"

    async def bind(self) -> None: ...

    def start(self) -> None:
        raise RuntimeError("I will not start")

    def stop(self) -> None:
        raise RuntimeError("I will not stop")

    def tick(self, now: float) -> None:
        raise RuntimeError("I will not tick")


async def test_protocols_that_fail_at_start_stop_tick_and_close_keep_nobody_else_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters, listeners = registry.cluster, registry.listener
    monkeypatch.setattr(registry, "cluster", lambda name: Grumpy if name == "Grumpy" else clusters(name))
    monkeypatch.setattr(registry, "listener", lambda name: Lame if name == "Lame" else listeners(name))
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        stray: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context["message"]))
        base = proxy.config
        odd = config(clusters=[{"name": "g", "spec": {"protocol": "Grumpy"}}], listeners=[listener("a", protocol="Lame")], base=base)
        await proxy.apply(odd)
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        ticked: list[float] = []
        monkeypatch.setattr(proxy.listeners["in"], "tick", ticked.append)
        assert proxy.timer is not None
        proxy.timer.cancel()
        proxy._tick()
        await proxy.apply(base)
        assert set(proxy.listeners) == {"in"} and ticked
        assert [text.split(" failed")[0] for text in stray] == [
            "starting listener a",
            "the tick of listener a",
            "the tick of cluster g",
            "stopping listener a",
            "closing cluster g",
        ]
        proxy.draining.clear()


async def test_an_apply_that_is_cancelled_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()

    class Slow(Lame):
        async def bind(self) -> None:
            await never.wait()

        def stop(self) -> None: ...

    listeners = registry.listener
    monkeypatch.setattr(registry, "listener", lambda name: Slow if name == "Slow" else listeners(name))
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        port = free_port()
        new = config(listeners=[listener("first", port=port), listener("slow", protocol="Slow")], base=proxy.config)
        with unchanged(proxy):
            task = asyncio.create_task(proxy.apply(new))
            await wait_until(lambda: not free(port))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert free(port)
        await proxy.apply(config(listeners=[listener("first", port=port)], base=proxy.config))
        assert await ask(port, b"x") == b"x"


async def test_two_changes_at_once_are_put_in_force_one_after_the_other() -> None:
    async with running() as proxy:
        port = free_port()
        confs = [config(clusters=[echo()], listeners=[listener(f"l{n}", port=port)]) for n in range(5)]
        await asyncio.gather(*(proxy.apply(conf) for conf in confs))
        assert proxy.config.revision == 6
        assert set(proxy.listeners) == {"l4"}
        assert await ask(port, b"x") == b"x"


# --- addresses --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["TCP", "HTTP"])
async def test_a_port_that_another_listener_has_is_refused_by_name(protocol: str) -> None:
    port = free_port()
    conf = config(clusters=[echo()], listeners=[listener("one", protocol=protocol, port=port)])
    two = listener("two", protocol=protocol, port=port)
    async with running(conf) as proxy:
        with unchanged(proxy), pytest.raises(Error, match='listener "one" has it already'):
            await proxy.apply(config(listeners=[two], base=conf))
    async with running() as proxy:
        with unchanged(proxy), pytest.raises(Error, match='listener "one" has it already'):
            await proxy.apply(config(listeners=[two], base=conf))


async def test_two_new_listeners_cannot_share_the_socket_of_the_one_they_replace() -> None:
    port = free_port()
    async with running(config(clusters=[echo()], listeners=[listener("old", port=port)])) as proxy:
        new = config(clusters=[echo()], listeners=[listener("a", port=port), listener("b", port=port)])
        with unchanged(proxy), pytest.raises(Error, match='listener "a" has it already'):
            await proxy.apply(new)


async def test_two_new_listeners_on_port_0_get_two_ports_also_when_one_takes_over() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("old")])) as proxy:
        port = port_of(proxy, "old")
        await proxy.apply(config(clusters=[echo()], listeners=[listener("a"), listener("b")]))
        assert {port_of(proxy, "a"), port_of(proxy, "b")} > {port} and port_of(proxy, "a") != port_of(proxy, "b")


async def test_a_tcp_and_a_udp_listener_may_have_one_port() -> None:
    port = free_port()
    conf = config(clusters=[echo()], listeners=[listener("t", port=port), listener("u", protocol="UDP", port=port)])
    async with running(conf), udp(port) as client:
        client.send(b"u")
        assert await client.read() == b"u"
        assert await ask(port, b"t") == b"t"


async def test_a_listener_that_replaces_another_on_its_port_takes_the_socket_over_and_loses_no_connection() -> None:
    port = free_port()
    async with running(config(clusters=[echo()], listeners=[listener("old", port=port)])) as proxy, tcp(port) as before:
        before.send(b"1")
        await before.read(1)
        await proxy.apply(config(clusters=[{"name": "echo", "spec": {"protocol": "Discard"}}], listeners=[listener("new", port=port)]))
        assert await ask(port, b"x") == b""
        before.send(b"2")
        assert await before.read(1) == b"2"
        assert {s.listener.name for s in proxy.sessions()} == {"old"}


async def test_two_listeners_may_swap_their_ports_in_one_change() -> None:
    a, b = free_port(), free_port()
    discard = {"name": "discard", "spec": {"protocol": "Discard"}}

    def conf(first: int, second: int) -> Config:
        return config(clusters=[echo(), discard], listeners=[listener("e", port=first), listener("d", "discard", port=second)])

    async with running(conf(a, b)) as proxy:
        assert (await ask(a, b"x"), await ask(b, b"x")) == (b"x", b"")
        await proxy.apply(conf(b, a))
        assert (await ask(a, b"x"), await ask(b, b"x")) == (b"", b"x")


async def test_a_deleted_listener_gives_its_port_back_and_its_sessions_live_on() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy, tcp(port_of(proxy, "in")) as client:
        port = port_of(proxy, "in")
        client.send(b"1")
        await client.read(1)
        await proxy.apply(without(proxy.config, "listener", "in"))
        assert free(port)
        client.send(b"2")
        assert await client.read(1) == b"2"
        assert len(list(proxy.sessions())) == 1


# --- what is unchanged stays ------------------------------------------------------------------------------------------------------


async def test_unrelated_changes_keep_tables_listeners_and_clusters() -> None:
    async with running(config(clusters=[echo(), cluster("c", 1)], listeners=[listener("in"), listener("other")])) as proxy:
        table, one, echo_cluster = proxy.listeners["in"].table, proxy.listeners["in"], proxy.clusters["echo"]
        base = proxy.config
        base = config(rules=[{"name": "r", "action": {"route": "x"}}], routes=[{"name": "x", "destination": "c"}], base=base)
        base = config(rulelists=[{"name": "rl", "rules": ["r"]}], clusters=[cluster("c", 2), echo("more")], base=base)
        await proxy.apply(base)
        await proxy.apply(without(base, "listener", "other", recursive=True))
        assert proxy.listeners["in"] is one and one.table is table and proxy.clusters["echo"] is echo_cluster


async def test_a_configuration_that_is_applied_again_from_scratch_keeps_everything() -> None:
    def fresh() -> Config:
        return config(clusters=[echo(), cluster("c", 1)], listeners=[listener("in"), listener("c", "c")])

    async with running(fresh()) as proxy:
        before = state(proxy)
        await proxy.apply(fresh())
        assert state(proxy)[1:] == before[1:]


async def test_true_and_1_are_two_values_when_a_rule_changes() -> None:
    def rules(value: Any) -> list[dict[str, Any]]:
        match = {"op": "test", "path": "/TCP/src_port", "value": value}
        return [
            {
                "match": {"op": "not", "apply": [match]},
                "action": {"rewrite": [{"path": "/v", "value": value}], "route": {"destination": "echo"}},
            }
        ]

    async with running(config(clusters=[echo()], listeners=[listener("in", rules=rules(1))])) as proxy:
        await proxy.apply(config(clusters=[echo()], listeners=[listener("in", rules=rules(True))]))
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
            (session,) = proxy.sessions()
            assert session.metadata["v"] is True


async def test_a_changed_endpoint_list_keeps_the_cluster_and_what_is_known_of_the_endpoints_that_stay() -> None:
    async with tcp_server(echoing) as upstream:
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
            running_cluster = proxy.clusters["c"]
            (endpoint,) = running_cluster.endpoints
            await proxy.apply(config(clusters=[cluster("c", upstream.port, "127.0.0.1", "127.0.0.2")], base=conf))
            assert proxy.clusters["c"] is running_cluster
            assert running_cluster.endpoints[0] is endpoint and endpoint.active == 1


async def test_live_sessions_keep_their_route_and_new_ones_take_the_new_one() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", "echo")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"1")
        await client.read(1)
        await proxy.apply(config(clusters=[{"name": "echo", "spec": {"protocol": "Discard"}}], base=conf))
        assert await ask(port_of(proxy, "in"), b"x") == b""
        client.send(b"2")
        assert await client.read(1) == b"2"


async def test_names_bind_late_and_changes_at_run_time_are_seen_by_the_next_session() -> None:
    async with running(config(listeners=[listener("in", rules="rl")])) as proxy:
        port = port_of(proxy, "in")
        for part in (
            {"rulelists": [{"name": "rl", "rules": ["r"]}]},
            {"rules": [{"name": "r", "action": {"apply": "rl2"}}]},
            {"rulelists": [{"name": "rl2", "rules": ["r2"]}]},
            {"rules": [{"name": "r2", "action": {"route": "x"}}]},
            {"routes": [{"name": "x", "destination": "echo"}]},
            {"clusters": [echo()]},
        ):
            assert await ask(port, b"") == b""
            await proxy.apply(config(base=proxy.config, **part))
        assert await ask(port, b"x") == b"x"
        await proxy.apply(config(rules=[{"name": "r2", "action": {"apply": "rl"}}], base=proxy.config))
        assert await ask(port, b"") == b""


async def test_200_changes_under_load_fail_no_session_and_lose_no_byte() -> None:
    block = b"0123456789" * 100
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        port, done, rounds = port_of(proxy, "in"), asyncio.Event(), 0
        failed: list[Session] = []
        proxy.env.read(lambda ended: failed.extend(session for session in ended if session.error))

        async def long() -> int:
            n = 0
            async with tcp(port) as client:
                while not done.is_set():
                    client.send(block)
                    assert await client.read(len(block)) == block
                    n += 1
                client.end()
                assert await client.read_all() == b""
            return n

        async def short() -> int:
            n = 0
            while not done.is_set():
                assert await ask(port, block) == block
                n += 1
            return n

        load = [asyncio.create_task(one) for one in (long(), long(), long(), short(), short())]
        base = proxy.config
        for n in range(100):
            rule = {"name": f"r{n}", "action": {"route": {"destination": cluster(f"c{n}", 1)}}}
            await proxy.apply(config(rules=[rule], listeners=[listener("tmp", port=0)], base=base))
            await asyncio.sleep(0.001)
            await proxy.apply(base)
            await asyncio.sleep(0.001)
        done.set()
        rounds = sum(await asyncio.gather(*load))
        assert rounds > 100 and not failed
        assert proxy.config.revision == 201
        await wait_until(lambda: not list(proxy.sessions()))


# --- the REST API's address -------------------------------------------------------------------------------------------------------


def to_api(name: str, port: int = 0, protocol: str = "HTTP", address: str | None = None, **fields: Any) -> dict[str, Any]:
    made = listener(name, "api", protocol=protocol, port=port, **fields)
    made["spec"]["address"] = address
    return made | {"spec": {key: value for key, value in made["spec"].items() if value is not None}}


async def test_a_listener_that_leads_into_the_api_binds_loopback_when_it_names_no_address() -> None:
    async with running(config(clusters=[API], listeners=[to_api("api")])) as proxy:
        assert proxy.listeners["api"].bound[0].getsockname()[0] == "127.0.0.1"
    jump = [{"action": {"apply": "more"}}]
    more = {"name": "more", "rules": [{"action": {"route": {"destination": "echo", "fallback": "api"}}}]}
    async with running(config(clusters=[API, echo()], rulelists=[more], listeners=[to_api("api", rules=jump)])) as proxy:
        assert proxy.listeners["api"].bound[0].getsockname()[0] == "127.0.0.1"


async def test_a_listener_that_leads_into_the_api_may_not_name_an_address_that_others_reach() -> None:
    async with running() as proxy:
        with unchanged(proxy), pytest.raises(Error, match="open to other machines") as caught:
            await proxy.apply(config(clusters=[API], listeners=[to_api("api", address="0.0.0.0")]))
        assert caught.value.status == 400
        await proxy.apply(config(clusters=[API], listeners=[to_api("api", address="127.0.0.2")]))
        assert proxy.listeners["api"].bound[0].getsockname()[0] == "127.0.0.2"


@pytest.mark.parametrize("tokens", [True, False])
async def test_a_lock_or_a_word_of_the_user_opens_the_api_to_others(tmp_path: Path, tokens: bool) -> None:
    (tmp_path / "tokens").write_text("a-token-of-some-length\n")
    (tmp_path / "tokens").chmod(0o600)
    async with running() as proxy:
        proxy.env.gate = Gate(tokens=Tokens(str(tmp_path / "tokens")) if tokens else None, insecure=not tokens)
        await proxy.apply(config(clusters=[API], listeners=[to_api("api", address="0.0.0.0")]))
        assert proxy.listeners["api"].bound[0].getsockname()[0] == "0.0.0.0"


async def test_no_cluster_may_lead_to_the_apis_own_address() -> None:
    port = free_port()
    async with running(admin=("127.0.0.1", port)) as proxy:
        for address in ("127.0.0.1", "localhost", "127.9.9.9", "::1", "[::1]", "0.0.0.0", "::ffff:127.0.0.1"):
            with unchanged(proxy), pytest.raises(ConfigError, match="where the REST API listens"):
                await proxy.apply(config(clusters=[cluster("sly", port, address)]))
        with unchanged(proxy), pytest.raises(ConfigError, match="where the REST API listens"):
            await proxy.apply(config(clusters=[API, cluster("sly", 7777)], listeners=[to_api("api", 7777)]))
        await proxy.apply(config(clusters=[cluster("honest", port + 1), cluster("far", port, "192.0.2.1")]))


async def test_a_public_listener_cannot_be_led_into_the_api_later() -> None:
    public = listener("in", rules="rl", protocol="HTTP", spec={"address": "0.0.0.0"})
    conf = config(clusters=[echo(), API], rulelists=[{"name": "rl", "rules": []}], listeners=[public])
    async with running(conf) as proxy:
        led = config(rulelists=[{"name": "rl", "rules": [{"action": {"route": {"destination": "api"}}}]}], base=conf)
        with unchanged(proxy), pytest.raises(Error, match="open to other machines"):
            await proxy.apply(led)
        proxy.env.insecure_admin = True
        await proxy.apply(led)


async def test_a_listener_on_a_loopback_address_may_be_led_into_the_api() -> None:
    conf = config(clusters=[echo(), API], rulelists=[{"name": "rl", "rules": []}], listeners=[listener("in", rules="rl", protocol="HTTP")])
    async with running(conf) as proxy:
        led = config(rulelists=[{"name": "rl", "rules": [{"action": {"route": {"destination": "api"}}}]}], base=conf)
        assert await proxy.apply(led) == ()


async def test_a_listener_that_led_into_the_api_stays_on_loopback_and_says_so() -> None:
    conf = config(clusters=[echo(), API], listeners=[to_api("in")])
    async with running(conf) as proxy:
        (warning,) = await proxy.apply(config(routes=[{"name": conf_route(conf), "destination": "echo"}], base=conf))
        assert "stays on loopback" in warning


def conf_route(conf: Config) -> str:
    (name,) = conf.routes
    return name


async def test_the_api_has_a_listener_of_its_own_until_a_configured_one_takes_its_place_and_again_after_that() -> None:
    port = free_port()
    async with running(admin=("127.0.0.1", port)) as proxy:
        own = proxy.admin
        assert own is not None and not free(port)
        await proxy.apply(config(clusters=[API], listeners=[to_api("api", port)]))
        assert proxy.admin is None and port_of(proxy, "api") == port
        async with tcp(port):
            pass
        await proxy.apply(config(clusters=[API]))
        assert proxy.admin is not None and proxy.admin is not own and not free(port)
        async with tcp(port):
            pass
        assert not list(proxy.sessions())


async def test_the_apis_own_address_is_not_given_to_a_listener_that_leads_elsewhere() -> None:
    port = free_port()
    async with running(admin=("127.0.0.1", port)) as proxy:
        with unchanged(proxy), pytest.raises(Error, match="has it already"):
            await proxy.apply(config(clusters=[echo()], listeners=[listener("in", port=port)]))


async def test_a_listener_that_stays_keeps_its_port_when_the_api_needs_one_again() -> None:
    port = free_port()
    conf = config(clusters=[API, echo()], listeners=[to_api("in", port)])
    async with running(conf, admin=("127.0.0.1", port)) as proxy:
        warnings = await proxy.apply(config(routes=[{"name": conf_route(conf), "destination": "echo"}], base=conf))
        assert proxy.admin is None and any("no TCP address" in text for text in warnings)


async def test_an_api_address_that_is_taken_is_a_warning_and_nothing_more() -> None:
    async with tcp_server() as other, running(config(clusters=[echo()], listeners=[listener("in")]), ("127.0.0.1", other.port)) as proxy:
        assert proxy.admin is None
        assert await ask(port_of(proxy, "in"), b"x") == b"x"


# --- the end ----------------------------------------------------------------------------------------------------------------------


async def test_close_waits_for_live_sessions_and_cuts_the_rest() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as a, tcp(port_of(proxy, "in")) as b:
        for client in (a, b):
            client.send(b"x")
            await client.read(1)
        closing = asyncio.create_task(proxy.close(drain=0.1))
        await asyncio.sleep(0)
        a.end()
        assert await a.read_all() == b""
        assert await closing == 1
        assert await b.read_all() == b""


async def test_close_ends_as_soon_as_the_last_session_has() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        await client.read(1)
        closing = asyncio.create_task(proxy.close(drain=30))
        await asyncio.sleep(0)
        client.end()
        assert await asyncio.wait_for(closing, 2) == 0


# --- cost -------------------------------------------------------------------------------------------------------------------------


async def test_a_change_of_one_rule_among_1000_is_in_force_within_50_ms() -> None:
    rules = [
        {"name": f"r{n}", "match": {"op": "test", "path": "/HTTP/headers/x-user", "value": f"u{n}"}, "action": {"route": "x"}}
        for n in range(1000)
    ]
    lists = [{"name": "rl", "rules": [rule["name"] for rule in rules]}]
    routes = [{"name": "x", "destination": "echo"}]
    conf = config(clusters=[echo()], routes=routes, rules=rules, rulelists=lists, listeners=[listener("in", rules="rl")])
    async with running(conf) as proxy:
        costs = []
        for n in range(5):
            new = config(rules=[{**rules[500], "match": {"op": "test", "path": "/TCP/src_port", "value": n}}], base=proxy.config)
            began = time.process_time()
            await proxy.apply(new)
            costs.append(time.process_time() - began)
        assert min(costs) < 0.05, costs
