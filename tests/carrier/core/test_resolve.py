"""Names to addresses: asked rarely, together, and answered from memory when the name server hiccups."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from carrier.core import resolve
from carrier.core.lookup import Found, Place, Unknown
from carrier.core.resolve import Resolver, literal
from carrier.errors import Error
from tests.support import wait_until

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """What is known of names, and a clock that is set: stands in for the look-up. asked: the names, each time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ttl = 5.0
        self.asked: list[str] = []
        self.answers: dict[str, list[str] | Error] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def find(self, host: str) -> Found:
        self.asked.append(host)
        await self.gate.wait()
        answer = self.answers[host]
        if isinstance(answer, Error):
            raise answer
        return Found([Place(V6 if ":" in ip else V4, ip) for ip in answer], self.ttl)

    def resolver(self, **more: float) -> Resolver:
        found = Resolver(lookup=self, **more)  # type: ignore[arg-type]
        found._now = lambda: self.now  # type: ignore[method-assign]
        return found


UNKNOWN = Error("dns", "a: Temporary failure in name resolution", "upstream", "yes")


async def settled(resolver: Resolver) -> None:
    """Until nothing is being asked."""
    await wait_until(lambda: not resolver.asking)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("1.2.3.4", (V4, ("1.2.3.4", 5))),
        ("::1", (V6, ("::1", 5, 0, 0))),
        ("[::1]", (V6, ("::1", 5, 0, 0))),
        ("example.org", None),
        ("", None),
        ("1.2.3", None),
        ("fe80::1%nosuch", None),
        ("[::1", None),
    ],
)
def test_a_literal_is_an_address_and_anything_else_a_name(host: str, address: Any) -> None:
    assert literal(host, 5) == address


def test_a_zone_becomes_the_scope_of_the_address() -> None:
    found = literal("fe80::1%lo", 5)
    assert found == (V6, ("fe80::1", 5, 0, socket.if_nametoindex("lo")))


async def test_a_literal_asks_nobody(names: Names) -> None:
    assert await names.resolver().resolve("127.0.0.1", 80) == [(V4, ("127.0.0.1", 80))]
    assert names.asked == []


async def test_an_answer_serves_for_its_time_and_on_while_a_new_one_is_asked_for(names: Names) -> None:
    resolver = names.resolver()
    names.answers["a"] = ["1.1.1.1", "::2"]
    assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80)), (V6, ("::2", 80, 0, 0))]
    names.answers["a"] = ["3.3.3.3"]
    names.now += 4.9
    assert (await resolver.resolve("a", 81))[0] == (V4, ("1.1.1.1", 81))
    assert names.asked == ["a"]
    names.now += 0.2
    names.gate.clear()  # the name server takes its time
    assert (await resolver.resolve("a", 80))[0] == (V4, ("1.1.1.1", 80))
    names.gate.set()
    await settled(resolver)
    assert await resolver.resolve("a", 80) == [(V4, ("3.3.3.3", 80))]
    assert names.asked == ["a", "a"]


@pytest.mark.parametrize(("ttl", "kept"), [(0.0, 1.0), (30.0, 30.0), (86400.0, 300.0)])
async def test_an_answer_is_kept_for_as_long_as_it_says_within_bounds(names: Names, ttl: float, kept: float) -> None:
    resolver = names.resolver()
    names.ttl, names.answers["a"] = ttl, ["1.1.1.1"]
    await resolver.resolve("a", 80)
    assert resolver.known["a"].fresh == names.now + kept


async def test_the_last_answer_serves_on_while_asking_fails_and_not_for_ever(names: Names) -> None:
    resolver = names.resolver(stale=300)
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    names.answers["a"] = UNKNOWN
    names.now += 304
    assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80))]
    await settled(resolver)
    names.now += 2
    with pytest.raises(Error, match="a: Temporary failure") as error:
        await resolver.resolve("a", 80)
    assert (error.value.kind, error.value.retry, error.value.status) == ("dns", "yes", 503)


async def test_the_addresses_of_a_name_that_is_no_name_any_more_do_not_serve_for_long(names: Names) -> None:
    """A Service that was deleted: its address may be another's in a minute. (A name server that only fails says nothing of the name.)"""
    resolver = names.resolver(stale=300)
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    names.answers["a"] = Unknown("dns", "a: Name or service not known", "upstream", "yes")
    names.now += 6
    for _ in range(29):
        assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80))]
        await settled(resolver)
        names.now += 1
        assert resolver.places("a") == {"1.1.1.1"}
    names.now += 2
    with pytest.raises(Error, match="not known"):
        await resolver.resolve("a", 80)
    assert resolver.places("a") == frozenset()
    names.answers["a"] = ["2.2.2.2"]
    names.now += 2
    assert await resolver.resolve("a", 80) == [(V4, ("2.2.2.2", 80))]


async def test_a_name_that_nobody_knows_is_not_asked_for_by_everybody(names: Names) -> None:
    resolver = names.resolver()
    names.answers["a"] = UNKNOWN
    for _ in range(5):
        with pytest.raises(Error, match="Temporary"):
            await resolver.resolve("a", 80)
    assert names.asked == ["a"]
    names.now += 1.1
    names.answers["a"] = ["1.1.1.1"]
    assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80))]


async def test_after_a_failure_a_new_answer_is_waited_for_and_the_old_one_serves_where_none_comes(names: Names) -> None:
    resolver = names.resolver()
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    resolver.forget("a")
    resolver.forget("never seen")
    names.answers["a"] = ["2.2.2.2"]
    assert await resolver.resolve("a", 80) == [(V4, ("2.2.2.2", 80))]
    resolver.forget("a")
    names.answers["a"] = UNKNOWN
    assert await resolver.resolve("a", 80) == [(V4, ("2.2.2.2", 80))]


async def test_a_silent_server_is_waited_for_a_moment_only_where_an_answer_is_known(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "DOUBT", 0.02)
    resolver = names.resolver()
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    resolver.forget("a")
    names.gate.clear()
    assert await asyncio.wait_for(resolver.resolve("a", 80), 1) == [(V4, ("1.1.1.1", 80))]
    names.gate.set()
    await settled(resolver)


async def test_questions_at_one_time_share_one_look_up_and_one_that_is_cancelled_spoils_nothing(names: Names) -> None:
    resolver = names.resolver()
    names.answers["a"] = ["1.1.1.1"]
    names.gate.clear()
    tasks = [asyncio.ensure_future(resolver.resolve("a", 80)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[0].cancel()
    names.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [[(V4, ("1.1.1.1", 80))]] * 4
    assert names.asked == ["a"]
    await settled(resolver)


async def test_an_address_that_failed_comes_last_for_a_while(names: Names) -> None:
    resolver = names.resolver()
    names.ttl = 300
    names.answers["a"] = ["1.1.1.1", "2.2.2.2", "3.3.3.3"]
    first = (await resolver.resolve("a", 80))[0]
    resolver.failed(first)
    assert [address[0] for _, address in await resolver.resolve("a", 80)] == ["2.2.2.2", "3.3.3.3", "1.1.1.1"]
    names.now += 31
    assert [address[0] for _, address in await resolver.resolve("a", 80)] == ["1.1.1.1", "2.2.2.2", "3.3.3.3"]


async def test_where_a_name_leads_by_now_is_known_without_waiting(names: Names) -> None:
    resolver = names.resolver()
    assert resolver.places("a") is None
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    names.answers["a"] = ["2.2.2.2"]
    names.now += 6
    assert resolver.places("a") == {"1.1.1.1"}
    await settled(resolver)
    assert resolver.places("a") == {"2.2.2.2"}


async def test_a_name_that_moves_is_known_to_have_moved_when_its_time_is_over(names: Names) -> None:
    """Kept connections went on to the old address for two seconds more: asked for at the next look, closed at the one after it."""
    resolver = names.resolver()
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    names.answers["a"] = ["2.2.2.2"]
    for _ in range(4):
        names.now += 1
        resolver.places("a")
        await settled(resolver)
    names.now += 1  # five seconds: its ttl
    assert resolver.places("a") == {"2.2.2.2"}
    assert names.asked == ["a", "a"]


async def test_a_service_has_its_own_ports_and_the_api_is_not_one(names: Names) -> None:
    resolver = names.resolver()

    async def find(host: str) -> Found:
        return Found([Place(V4, "1.1.1.1", 8080), Place(V4, "127.0.0.1", 1234)], 5)

    resolver.lookup.find = find  # type: ignore[method-assign]
    assert [address for _, address in await resolver.resolve("_x._tcp.a", 0)] == [("1.1.1.1", 8080), ("127.0.0.1", 1234)]
    resolver.closed = frozenset([1234])
    assert [address for _, address in await resolver.resolve("_x._tcp.a", 0)] == [("1.1.1.1", 8080)]


async def test_no_name_at_all_is_a_dns_error_and_asks_nobody(names: Names) -> None:
    with pytest.raises(Error, match="no address"):
        await names.resolver().resolve("", 80)
    assert names.asked == []


async def test_what_is_remembered_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "CAP", 10)
    resolver = names.resolver()
    for n in range(25):
        names.answers[f"h{n}"] = ["1.1.1.1"]
        await resolver.resolve(f"h{n}", 80)
        resolver.failed((V4, (f"1.1.1.{n}", 80)))
    assert len(resolver.known) <= 10
    assert len(resolver.last) <= 10
