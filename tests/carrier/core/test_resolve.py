"""Names to addresses: asked rarely, together, and answered from memory when the name server hiccups."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from carrier.core import resolve
from carrier.core.resolve import Resolver, literal
from carrier.errors import Error

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """A name server that is played, and a clock: stands in for the running loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.answers: dict[str, list[str] | Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def time(self) -> float:
        return self.now

    async def getaddrinfo(self, host: str, port: Any, *, type: int) -> list[Any]:
        self.asked.append(host)
        await self.gate.wait()
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return [(V6 if ":" in ip else V4, type, 0, "", (ip, 0)) for ip in answer]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr("carrier.core.resolve.asyncio.get_running_loop", lambda: found)
    return found


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
    assert await Resolver().resolve("127.0.0.1", 80) == [(V4, ("127.0.0.1", 80))]
    assert names.asked == []


async def test_an_answer_serves_for_its_time_and_is_asked_for_again_after_that(names: Names) -> None:
    resolver = Resolver(ttl=5)
    names.answers["a"] = ["1.1.1.1", "::2"]
    assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80)), (V6, ("::2", 80, 0, 0))]
    names.answers["a"] = ["3.3.3.3"]
    names.now = 4.9
    assert (await resolver.resolve("a", 81))[0] == (V4, ("1.1.1.1", 81))
    names.now = 5.1
    assert await resolver.resolve("a", 80) == [(V4, ("3.3.3.3", 80))]
    assert names.asked == ["a", "a"]


async def test_the_last_answer_serves_on_while_asking_fails_and_not_for_ever(names: Names) -> None:
    resolver = Resolver(ttl=5, stale=300)
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    names.answers["a"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    names.now = 304
    assert await resolver.resolve("a", 80) == [(V4, ("1.1.1.1", 80))]
    names.now = 306
    with pytest.raises(Error, match="a: Temporary failure") as error:
        await resolver.resolve("a", 80)
    assert (error.value.kind, error.value.retry, error.value.status) == ("dns", "yes", 503)


async def test_a_forgotten_answer_is_asked_for_again_at_once_and_still_serves_as_a_stale_one(names: Names) -> None:
    resolver = Resolver()
    names.answers["a"] = ["1.1.1.1"]
    await resolver.resolve("a", 80)
    resolver.forget("a")
    resolver.forget("never seen")
    names.answers["a"] = ["2.2.2.2"]
    assert await resolver.resolve("a", 80) == [(V4, ("2.2.2.2", 80))]
    resolver.forget("a")
    names.answers["a"] = socket.gaierror(socket.EAI_NONAME, "no")
    assert await resolver.resolve("a", 80) == [(V4, ("2.2.2.2", 80))]


async def test_questions_at_one_time_share_one_look_up_and_one_that_is_cancelled_spoils_nothing(names: Names) -> None:
    resolver = Resolver()
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
    assert names.asked == ["a"] and not resolver.asking


async def test_an_answer_names_each_address_once_in_the_order_that_it_came(names: Names) -> None:
    names.answers["a"] = ["2.2.2.2", "1.1.1.1", "2.2.2.2"]
    assert [address[0] for _, address in await Resolver().resolve("a", 1)] == ["2.2.2.2", "1.1.1.1"]


@pytest.mark.parametrize("failure", [UnicodeError("label empty or too long"), ValueError("embedded null byte"), OSError(5, "I/O error")])
async def test_a_name_that_is_none_is_a_dns_error(names: Names, failure: Exception) -> None:
    names.answers["a"] = failure
    with pytest.raises(Error) as error:
        await Resolver().resolve("a", 80)
    assert error.value.kind == "dns"


async def test_no_name_at_all_is_a_dns_error_and_asks_nobody(names: Names) -> None:
    with pytest.raises(Error, match="no address"):
        await Resolver().resolve("", 80)
    assert names.asked == []


async def test_what_is_remembered_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "CAP", 10)
    resolver = Resolver()
    for n in range(25):
        names.answers[f"h{n}"] = ["1.1.1.1"]
        await resolver.resolve(f"h{n}", 80)
    assert len(resolver.known) <= 10
