"""Events: what is told to whom, how much, and what it costs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from carrier.observe import live
from carrier.observe.filters import Wanted
from carrier.observe.live import Live
from carrier.proxy.proxy import Proxy
from tests.e2e.test_grpc import Echo, channel, grpc_server
from tests.e2e.test_h2 import to
from tests.support import config, echo, listener, port_of, running, tcp, wait_until

EVERYBODY = {"name": "everybody", "action": {"route": {"destination": "echo"}}}


class Reader:
    """Somebody who watches. takes: whether he reads."""

    def __init__(self) -> None:
        self.text = ""
        self.takes = True

    def write(self, data: bytes) -> bool:
        if self.takes:
            self.text += data.decode()
        return self.takes

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    web = listener("web", protocol="HTTP", rules=[EVERYBODY])
    async with running(config(clusters=[echo()], listeners=[web, listener("tcp")])) as found:
        yield found


@pytest.fixture
async def told(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    monkeypatch.setattr(live, "PERIOD", 0.01)
    found = Live(asyncio.get_running_loop(), lambda: proxy.listeners, lambda rule: "john" if rule == "everybody" else "")
    found.number = 0  # by which events are named here
    ledger = proxy.env.read(found.read)
    ledger.watchers.append(found.refused)
    yield found
    found.close()


async def get(proxy: Proxy, target: str = "/a?b=c", line: str = "") -> None:
    async with tcp(port_of(proxy, "web")) as client:
        client.send((line or f"GET {target} HTTP/1.1").encode() + b"\r\nhost: x\r\nconnection: close\r\n\r\n")
        await client.read_all()


async def test_a_request_is_told_with_the_reason_of_its_routing(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    await get(proxy)
    await wait_until(lambda: reader.events(), "for the event")
    (event,) = [event for event in reader.events() if event["event"] == "request"]
    assert (event["method"], event["status"], event["rule"], event["user"]) == ("GET", 200, "everybody", "john")
    assert event["why"] == "rule everybody: anything" and event["listener"] == "web"
    assert reader.text.startswith(": carrier events\nretry: 2000\n\nid: 1\nevent: request\ndata: {")


async def test_who_comes_back_to_another_process_gets_all_that_its_ring_has(proxy: Proxy) -> None:
    last = Live(asyncio.get_running_loop(), lambda: proxy.listeners).number + 1000  # it has told that many
    await asyncio.sleep(0.01)
    second = Live(asyncio.get_running_loop(), lambda: proxy.listeners)
    second.join(Reader(), {})
    second.logged("notice", "change", {"revision": 7})
    second._beat()
    reader = Reader()
    second.join(reader, {}, str(last))
    second.close()
    assert [event["revision"] for event in reader.events()] == [7]


async def test_every_event_says_when_it_was(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    async with tcp(port_of(proxy, "tcp")) as client:
        client.send(b"x")
        await client.read(1)
        await get(proxy)
        await get(proxy, line="GET /a b HTTP/1.1")
        told.logged("warn", "endpoint is down", {})
        kinds = {"opened", "request", "refused", "endpoint"}
        await wait_until(lambda: {event["event"] for event in reader.events()} == kinds, "for all kinds")
    now = datetime.now(UTC)
    assert all(abs((now - datetime.fromisoformat(event["time"])).total_seconds()) < 60 for event in reader.events())


async def test_nothing_is_made_while_nobody_watches(proxy: Proxy, told: Live) -> None:
    await get(proxy)
    await asyncio.sleep(0.1)
    assert told.number == 0 and told.timer is None and not told.ring


async def test_a_refused_request_and_a_line_of_the_log_are_events(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    await get(proxy, line="GET /a b HTTP/1.1")
    told.logged("warn", "endpoint is down", {"endpoint": "10.0.0.1:80", "reason": "refused", "sessions": 3, "gone": None})
    told.logged("notice", "change", {"revision": 2})
    await wait_until(lambda: len(reader.events()) == 3, "for three events")
    kinds = {event["event"]: event for event in reader.events()}
    assert kinds["refused"]["status"] == 400
    assert kinds["endpoint"] == {
        "event": "endpoint",
        "time": kinds["endpoint"]["time"],
        "level": "warn",
        "what": "endpoint is down",
        "endpoint": "10.0.0.1:80",
        "reason": "refused",
        "sessions": 3,
    }
    assert kinds["configuration"]["revision"] == 2


async def test_a_connection_is_told_when_it_begins_and_when_it_ends(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    async with tcp(port_of(proxy, "tcp")) as client:
        client.send(b"x")
        await client.read(1)
        await wait_until(lambda: any(event["event"] == "opened" for event in reader.events()), "for it to be told")
    await wait_until(lambda: any(event["event"] == "session" for event in reader.events()), "for its end")
    (opened,) = [event for event in reader.events() if event["event"] == "opened"]
    assert opened["session"].startswith("TCP:127.0.0.1:") and opened["cluster"] == "echo"


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 2),
        ({"path": "/a"}, 1),
        ({"path": "/nope"}, 0),
        ({"status": "200"}, 2),
        ({"status": "2xx"}, 2),
        ({"status": "5xx"}, 0),
        ({"user": "john"}, 2),
        ({"user": "jane"}, 0),
        ({"rule": "everybody"}, 2),
        ({"listener": "tcp"}, 0),
        ({"protocol": "HTTP"}, 2),
        ({"errors": "true"}, 0),
    ],
)
async def test_filters_leave_out_what_is_not_asked_for(proxy: Proxy, told: Live, query: Mapping[str, str], count: int) -> None:
    everything, reader = Reader(), Reader()
    told.join(everything, {})
    told.join(reader, query)
    await get(proxy, "/a")
    await get(proxy, "/b")
    await wait_until(lambda: len([e for e in everything.events() if e["event"] == "request"]) == 2, "for both")
    await asyncio.sleep(0.05)
    assert len([event for event in reader.events() if event["event"] == "request"]) == count


async def test_what_is_too_much_is_counted_as_lost_and_told(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    for number in range(live.MOST + 70):
        told.logged("notice", "change", {"revision": number})
    await wait_until(lambda: any(event["event"] == "lost" for event in reader.events()), "for the count")
    events = reader.events()
    assert len([event for event in events if event["event"] == "configuration"]) == live.MOST
    assert [event["events"] for event in events if event["event"] == "lost"] == [70]
    assert told.lost == 70


async def test_a_reader_that_takes_nothing_hears_how_much_he_missed(told: Live) -> None:
    slow, other = Reader(), Reader()
    told.join(slow, {})
    told.join(other, {})
    slow.takes = False
    told.logged("notice", "change", {"revision": 1})
    await wait_until(lambda: len(other.events()) == 1, "for the other one")
    slow.takes = True
    await wait_until(lambda: bool(slow.events()), "for the count")
    assert slow.events()[-1] == {"event": "lost", "events": 1}


async def test_who_comes_back_gets_what_he_missed(told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    for number in range(5):
        told.logged("notice", "change", {"revision": number})
    told.leave(reader)
    again, fresh = Reader(), Reader()
    told.join(again, {}, "2")
    told.join(fresh, {})
    assert [event["revision"] for event in again.events()] == [2, 3, 4]
    assert fresh.events() == [], "who asks for nothing old gets nothing old"


async def test_who_comes_back_to_a_group_is_told_nothing_twice(told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD", 60)
    told.join(Reader(), {})
    told._beat()
    told.logged("notice", "change", {"revision": 1})  # the group is about to be told it
    reader = Reader()
    told.join(reader, {}, "0")
    told._beat()
    await wait_until(lambda: not told.due, "for all of them")
    assert [event["revision"] for event in reader.events()] == [1]


async def test_the_ring_is_bounded_in_bytes(told: Live) -> None:
    told.join(Reader(), {})
    for number in range(3000):
        told.logged("notice", "change", {"text": "x" * 500, "revision": number})
    assert told.size <= live.RING and sum(len(kept.frame) for kept in told.ring) == told.size


async def test_some_time_after_the_last_viewer_nothing_is_kept(told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINGER", 0.02)
    reader = Reader()
    told.join(reader, {})
    told.logged("notice", "change", {})
    told.leave(reader)
    await wait_until(lambda: told.timer is None, "for it to rest")
    assert not told.ring and not told.size and not told.groups


async def test_silence_is_broken_by_a_comment(told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUIET", 0.03)
    reader = Reader()
    told.join(reader, {})
    await wait_until(lambda: reader.text.endswith("\n\n:\n\n"), "for the comment")


async def test_what_a_told_session_was_routed_by_is_kept_with_its_event(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    await get(proxy, "/why")
    await wait_until(lambda: reader.events(), "for the event")
    found = told.find(1)
    assert found is not None
    event, metadata = found
    assert event["path"] == "/why" == metadata["HTTP"]["url"]["path"] and metadata["HTTP"]["headers"]["host"] == "x"
    assert told.find(2) is None


async def test_what_is_kept_has_its_bounds_in_bytes(proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RING", 4000)
    reader = Reader()
    told.join(reader, {})
    for number in range(12):
        await get(proxy, f"/{number}")
    await wait_until(lambda: len(reader.events()) == 12, "for the events")
    assert told.find(1) is None and told.find(12) is not None
    assert 0 < told.size <= 4000 and told.size == sum(kept.size for kept in told.ring)
    assert all(kept.size > len(kept.frame) for kept in told.ring), "what a session was routed by has weight, too"


async def test_of_what_nobody_is_told_the_ring_keeps_a_few_with_their_reasons(
    proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD", 60)
    reader, later = Reader(), Reader()
    told.join(reader, {"path": "/other"})
    ended = [await ended_at(proxy, "/mine") for _ in range(live.FEW + 5)]
    told.ring.clear()
    told._beat()
    told.read(ended)
    assert len(told.ring) == live.FEW and told.find(told.number) is not None
    told.join(later, {"path": "/mine"}, "0")
    assert len(later.events()) == live.FEW and reader.events() == []


async def ended_at(proxy: Proxy, target: str) -> Any:
    """What a reader of the ledger gets of a request."""
    found: list[Any] = []
    reader = found.extend
    proxy.env.read(reader)
    await get(proxy, target)
    await wait_until(lambda: found, "for its end")
    assert proxy.env.ledger is not None
    proxy.env.ledger.readers.remove(reader)
    return found[0]


async def flood(proxy: Proxy, told: Live, number: int, target: str = "/a") -> None:
    """So many requests end at once."""
    assert proxy.env.ledger is not None
    entry = await ended_at(proxy, target)
    told.left, told.keep.left = live.MADE, live.FEW
    for group in told.groups.values():
        group.left, group.lost, group.frame = live.MOST, 0, []
    told.read([entry] * number)


async def test_a_flood_is_counted_and_not_made(proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD", 60)  # one period for all of it
    everything, mine = Reader(), Reader()
    told.join(everything, {})
    told.join(mine, {"path": "/a", "status": "2xx"})
    before = told.number
    await flood(proxy, told, 1000)
    assert live.MOST <= told.number - before <= live.MOST + 1
    told._beat()
    for reader in (everything, mine):
        lost = [event["events"] for event in reader.events() if event["event"] == "lost"]
        assert len(reader.events()) - len(lost) >= live.MOST and sum(lost) >= 1000 - live.MOST


async def test_what_is_made_for_all_groups_has_a_bound_and_each_has_its_share(
    proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD", 60)
    floods = [Reader() for _ in range(20)]
    for number, reader in enumerate(floods):
        told.join(reader, {"path": "/" + "a" * number})
    rare = Reader()
    told.join(rare, {"path": "/aaa-rare"})
    one = await ended_at(proxy, "/aaa-rare")
    many = [await ended_at(proxy, "/" + "a" * number) for number in range(20)]
    told.left, told.number = live.MADE, 0
    for group in told._all():
        group.left, group.lost, group.frame = live.MOST, 0, []
    told.read(many * 40)
    assert told.left == 0 and told.number <= live.MADE + live.SHARE * 22
    told.read([one])
    told._beat()
    await wait_until(lambda: not told.due, "for all of them")
    assert [event["path"] for event in rare.events() if event["event"] == "request"] == ["/aaa-rare"]


async def test_many_viewers_are_written_to_in_several_turns(told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD", 60)
    readers = [Reader() for _ in range(3 * live.AT_ONCE)]
    for reader in readers:
        told.join(reader, {})
    told.logged("notice", "change", {"revision": 2})
    told._beat()
    assert sum(bool(reader.events()) for reader in readers) == live.AT_ONCE
    told.leave(readers[-1])
    await wait_until(lambda: not told.due, "for the others")
    assert [len(reader.events()) for reader in readers] == [1] * (len(readers) - 1) + [0]


async def test_many_filters_count_each_its_own_and_few_sessions_are_looked_at(
    proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What filters ask of a session is asked once for all that are alike; when nobody has room they are only counted, whatever they are."""
    monkeypatch.setattr(live, "PERIOD", 60)
    queries: list[dict[str, str]] = [
        {},
        {"path": "/a"},
        {"path": "/a/b"},
        {"status": "2xx"},
        {"status": "404"},
        {"errors": "true"},
        {"user": "x"},
    ]
    readers = [Reader() for _ in queries]
    for reader, query in zip(readers, queries, strict=True):
        told.join(reader, query)
    asked = []
    passes = Wanted.passes
    monkeypatch.setattr(Wanted, "passes", lambda self, *said: asked.append(said) or passes(self, *said))  # type: ignore[func-returns-value]
    one, two = await ended_at(proxy, "/a"), await ended_at(proxy, "/a/b")
    long = await ended_at(proxy, "/a/" + "x" * 1000)
    told._beat()
    for reader in readers:
        reader.text = ""
    asked.clear()
    told.read([one, two, long] * 200)
    assert len(asked) < 5 * 3 + 5 * 200, "the long one is asked about each time, as nothing of it is kept"
    told._beat()
    while told.due:
        told._send()
    found = {}
    for reader, query in zip(readers, queries, strict=True):
        events = reader.events()
        lost = sum(event["events"] for event in events if event["event"] == "lost")
        found[str(query)] = len(events) - bool(lost) + lost
    assert list(found.values()) == [600, 600, 200, 600, 0, 0, 0], found


async def test_kinds_of_sessions_that_are_remembered_are_bounded(proxy: Proxy, told: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AIMED", 8)
    reader = Reader()
    told.join(reader, {"path": "/a"})
    for number in range(30):
        told.read([await ended_at(proxy, f"/a{number}")])
        assert sum(len(aim.by) for aim in told.aimed.values()) <= 9


async def test_a_refused_request_is_for_those_whose_filters_it_passes(proxy: Proxy, told: Live) -> None:
    readers = {
        query: Reader()
        for query in (("path", "/no"), ("path", "/yes"), ("status", "400"), ("status", "5xx"), ("user", "john"), ("errors", "true"))
    }
    for (name, value), reader in readers.items():
        told.join(reader, {name: value})
    await get(proxy, line="GET /yes b HTTP/1.1")
    await wait_until(lambda: told.ring, "for the event")
    await asyncio.sleep(0.05)
    assert {query[1] for query, reader in readers.items() if reader.events()} == {"/yes", "400", "true"}


async def test_short_requests_are_told_at_their_end_alone_and_long_ones_when_they_have_lasted(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {})
    for _ in range(5):
        await get(proxy)
    async with tcp(port_of(proxy, "web")) as client:
        client.send(b"POST /long HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe")
        await wait_until(lambda: any(event["event"] == "opened" for event in reader.events()), "for it to be told")
    assert [event["event"] for event in reader.events()].count("opened") == 1
    assert not any(session._metadata for session in proxy.listeners["web"].live)


class Broken(Echo):
    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "broken")
        return b""


async def test_a_call_of_grpc_that_failed_is_for_who_watches_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD", 0.01)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(grpc_server(Broken()))
        proxy = await stack.enter_async_context(to(server, http=2))
        found = Live(asyncio.get_running_loop(), lambda: proxy.listeners)
        stack.callback(found.close)
        proxy.env.read(found.read)
        everything, errors = Reader(), Reader()
        found.join(everything, {})
        found.join(errors, {"errors": "true"})
        ours = await stack.enter_async_context(channel(port_of(proxy, "in")))
        assert await ours.unary_unary("/a.Service/Unary")(b"x") == b"echo x"
        with pytest.raises(grpc.aio.AioRpcError):
            await ours.unary_unary("/a.Service/Fail")(b"x")
        await wait_until(lambda: len(calls(everything)) == 2, "for both")
        await wait_until(lambda: calls(errors), "for the one that failed")
        assert calls(errors) == [("/a.Service/Fail", 200, "INTERNAL")]


def calls(reader: Reader) -> list[tuple[str, int, str]]:
    return [(event["path"], event["status"], event["grpc"]["status"]) for event in reader.events() if event["event"] == "request"]
