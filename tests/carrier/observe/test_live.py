"""Events: what is told to whom, how much, and what it costs nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from carrier.errors import ConfigError
from carrier.observe import live
from carrier.observe.live import Live, Wanted
from carrier.proxy.proxy import Proxy
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


@pytest.mark.parametrize("query", [{"usr": "x"}, {"status": "abc"}, {"status": "55"}, {"errors": "yes"}, {"since": "x"}])
def test_a_filter_that_cannot_hold_is_refused_with_what_may(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        Wanted(query)
    assert len(error.value.problems) == 1 and error.value.problems[0].allowed


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


async def test_the_ring_is_bounded_in_bytes(told: Live) -> None:
    told.join(Reader(), {})
    for number in range(3000):
        told.logged("notice", "change", {"text": "x" * 500, "revision": number})
    assert told.size <= live.RING and sum(len(frame) for _, _, frame in told.ring) == told.size


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
    assert 0 < told.size <= 4000 and {number for number, _, _ in told.ring} == set(told.seen)
    weights = sum(len(frame) for _, _, frame in told.ring) + sum(weight for _, weight in told.seen.values())
    assert told.size == weights


async def test_what_nobody_is_told_is_not_kept(proxy: Proxy, told: Live) -> None:
    reader = Reader()
    told.join(reader, {"path": "/other"})
    await get(proxy, "/mine")
    await wait_until(lambda: told.number, "for the event")
    assert told.find(1) is None and not told.seen
