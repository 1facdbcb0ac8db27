"""Names looked up by ourselves, against name servers on loopback: as the C library does, and a silent server costs nobody else anything."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from carrier.core import lookup as module
from carrier.core.lookup import Lookup, Place, Settings, in_order, read_hosts, read_settings
from carrier.errors import Error
from tests.nameserver import name_server

V4, V6 = socket.AF_INET, socket.AF_INET6


def addresses(found: module.Found) -> list[str]:
    return [place.address for place in found.places]


# -- files


def test_resolv_conf_is_read_as_the_c_library_reads_it() -> None:
    text = """
# a comment
nameserver 10.96.0.10   ; another
nameserver fd00::10
nameserver [::1]:5353
nameserver 9.9.9.9
nameserver nonsense
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5 timeout:1 attempts:3 rotate
"""
    servers = (("10.96.0.10", 53), ("fd00::10", 53), ("::1", 5353))
    search = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")
    assert read_settings(text) == Settings(servers, search, 5, 1.0, 3, False)
    assert read_settings("domain example.org\noptions use-vc ndots:99 ndots timeout:x").search == ("example.org",)
    assert read_settings("") == Settings()


def test_hosts_are_read_in_their_order() -> None:
    found = read_hosts("127.0.0.1 localhost Web # me\n::1 localhost\nnonsense x\n10.0.0.1 web\n10.0.0.1 web\n")
    assert found["localhost"] == [Place(V4, "127.0.0.1"), Place(V6, "::1")]
    assert found["web"] == [Place(V4, "127.0.0.1"), Place(V4, "10.0.0.1")]
    assert "x" not in found


async def test_hosts_come_first_and_localhost_is_this_machine_in_any_case(tmp_path: Path) -> None:
    async with name_server({("web", "A"): ["9.9.9.9"]}) as server:
        asks = server.lookup(tmp_path, hosts="10.1.1.1 web\n")
        assert addresses(await asks.find("WEB.")) == ["10.1.1.1"]
        assert addresses(await asks.find("app.localhost")) == ["127.0.0.1", "::1"]
        assert server.asked == []


async def test_both_files_are_read_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.0)
    async with name_server({("a.test", "A"): ["1.1.1.1"]}) as old, name_server({("a.test", "A"): ["2.2.2.2"]}) as new:
        asks = old.lookup(tmp_path)
        assert addresses(await asks.find("a.test")) == ["1.1.1.1"]
        (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.1:{new.port}\n# and more\n")
        assert addresses(await asks.find("a.test")) == ["2.2.2.2"]
        (tmp_path / "hosts").write_text("3.3.3.3 a.test\n")
        assert addresses(await asks.find("a.test")) == ["3.3.3.3"]
        (tmp_path / "hosts").unlink()
        assert addresses(await asks.find("a.test")) == ["2.2.2.2"]


# -- names


async def test_both_families_are_asked_for_and_taken_in_turns(tmp_path: Path) -> None:
    async with name_server({("a.test", "A"): ["1.1.1.1", "1.1.1.2"], ("a.test", "AAAA"): ["::1"]}) as server:
        server.ttl = 17
        found = await server.lookup(tmp_path).find("a.test")
    assert sorted(server.asked) == [("a.test", "A"), ("a.test", "AAAA")]
    assert (addresses(found), found.ttl) == (["::1", "1.1.1.1", "1.1.1.2"], 17)


async def test_a_family_that_nobody_answers_for_is_not_waited_for(tmp_path: Path) -> None:
    async with name_server({("a.test", "A"): ["1.1.1.1"]}) as server:
        answer = server.answer
        server.answer = lambda data, whole=True: answer(data, whole) if data[-3] == 1 else None  # type: ignore[method-assign]
        began = time.monotonic()
        assert addresses(await server.lookup(tmp_path).find("a.test")) == ["1.1.1.1"]
        assert time.monotonic() - began < 1.5


async def test_short_names_are_looked_for_in_the_domains_by_their_dots(tmp_path: Path) -> None:
    """ndots:5, as in every pod: what has fewer dots is tried in the domains of `search` first, and as it is then."""
    async with name_server({("db.ns.svc.local", "A"): ["1.1.1.1"], ("a.test", "A"): ["2.2.2.2"]}) as server:
        asks = server.lookup(tmp_path, "search ns.svc.local svc.local", "options ndots:5")
        assert addresses(await asks.find("db")) == ["1.1.1.1"]
        assert addresses(await asks.find("a.test")) == ["2.2.2.2"]
        assert [name for name, kind in server.asked if kind == "A"] == [
            "db.ns.svc.local",
            "a.test.ns.svc.local",
            "a.test.svc.local",
            "a.test",
        ]
        server.asked.clear()
        assert addresses(await asks.find("a.test.")) == ["2.2.2.2"]
        assert [name for name, kind in server.asked if kind == "A"] == ["a.test"]


async def test_as_many_domains_are_looked_in_as_a_pod_may_have(tmp_path: Path) -> None:
    """32, since Kubernetes 1.28; of more than six the others were passed over."""
    search = " ".join(f"d{i}.test" for i in range(32))
    async with name_server({("db.d31.test", "A"): ["1.1.1.1"]}) as server:
        assert addresses(await server.lookup(tmp_path, f"search {search}", "options ndots:5").find("db")) == ["1.1.1.1"]


async def test_who_says_that_a_name_is_none_says_so_of_both_families(tmp_path: Path) -> None:
    """A server that is silent when asked for IPv6 made each domain of `search` cost its whole time-out."""
    async with name_server({("db.b.test", "A"): ["1.1.1.1"]}) as server:
        answer = server.answer
        server.answer = lambda data, whole=True: answer(data, whole) if data[-3] == 1 else None  # type: ignore[method-assign]
        began = time.monotonic()
        assert addresses(await server.lookup(tmp_path, "search a.test b.test", "options ndots:5").find("db")) == ["1.1.1.1"]
        assert time.monotonic() - began < 1.9


async def test_a_domain_whose_server_fails_is_passed_over(tmp_path: Path) -> None:
    async with name_server({("db.b.test", "A"): ["1.1.1.1"]}) as server:
        answer = server.answer

        def failing(data: bytes, whole: bool = True) -> bytes | None:
            server.code = 2 if b"\x01a\x04test" in data else None
            return answer(data, whole)

        server.answer = failing  # type: ignore[method-assign]
        assert addresses(await server.lookup(tmp_path, "search a.test b.test", "options ndots:5").find("db")) == ["1.1.1.1"]


async def test_a_name_that_nobody_knows_is_said_to_be_unknown(tmp_path: Path) -> None:
    async with name_server({("a.test", "TXT"): []}) as server:
        for name in ("no.test", "a.test"):
            with pytest.raises(Error, match="not known") as caught:
                await server.lookup(tmp_path).find(name)
            assert (caught.value.kind, caught.value.retry) == ("dns", "yes")
    with pytest.raises(Error, match="is no name"):
        await Lookup().find("a..b")


async def test_a_long_answer_is_asked_for_over_tcp(tmp_path: Path) -> None:
    many = [f"10.0.{i}.1" for i in range(60)]
    async with name_server({("a.test", "A"): many}) as server:
        server.big = True
        assert addresses(await server.lookup(tmp_path).find("a.test")) == many
        server.big = False
        server.asked.clear()
        assert addresses(await server.lookup(tmp_path, "options use-vc").find("a.test")) == many


async def test_a_service_leads_to_its_targets_by_priority_and_to_their_ports(tmp_path: Path) -> None:
    records = {
        ("_http._tcp.a.test", "SRV"): [(20, 0, 80, "c.test"), (10, 5, 8080, "b.test")],
        ("b.test", "A"): ["1.1.1.1"],
        ("c.test", "A"): ["2.2.2.2"],
    }
    async with name_server(records) as server:
        found = await server.lookup(tmp_path).find("_http._tcp.a.test")
    assert found.places == [Place(V4, "1.1.1.1", 8080), Place(V4, "2.2.2.2", 80)]


# -- servers


async def test_a_silent_server_is_helped_out_by_the_next_and_asked_last_then(tmp_path: Path) -> None:
    async with name_server() as silent, name_server({("a.test", "A"): ["1.1.1.1"], ("b.test", "A"): ["2.2.2.2"]}) as good:
        silent.silent = True
        asks = silent.lookup(tmp_path, servers=(good,))
        began = time.monotonic()
        assert addresses(await asks.find("a.test")) == ["1.1.1.1"]
        assert time.monotonic() - began < 1.5
        silent.asked.clear()
        assert addresses(await asks.find("b.test")) == ["2.2.2.2"]
        assert silent.asked == []


async def test_a_server_that_fails_or_is_not_there_is_passed_over_at_once(tmp_path: Path) -> None:
    async with name_server() as bad, name_server() as gone, name_server({("a.test", "A"): ["1.1.1.1"]}) as good:
        bad.code = 2
        gone.transport.close()
        await asyncio.sleep(0.01)
        began = time.monotonic()
        assert addresses(await bad.lookup(tmp_path, servers=(gone, good)).find("a.test")) == ["1.1.1.1"]
        assert time.monotonic() - began < 1.5
        with pytest.raises(Error, match="failed with code 2"):
            await bad.lookup(tmp_path).find("a.test")


async def test_when_nobody_answers_that_is_told_with_who_was_asked(tmp_path: Path) -> None:
    async with name_server() as server:
        server.silent = True
        asks = server.lookup(tmp_path, "options timeout:1 attempts:1", "search a b c")
        began = time.monotonic()
        with pytest.raises(Error, match=rf"127.0.0.1:{server.port}: no answer within 1 s"):
            await asks.find("a.test")
        assert time.monotonic() - began < 3  # the other names are not tried: nobody would answer


async def test_silence_for_many_names_costs_the_others_nothing_and_no_thread(tmp_path: Path) -> None:
    async with name_server({("a.test", "A"): ["1.1.1.1"]}) as server:
        server.silent = {f"n{i}.test" for i in range(100)}  # two questions each: as many as its socket holds at once
        asks = server.lookup(tmp_path)
        threads = threading.active_count()
        waiting = [asyncio.ensure_future(asks.find(f"n{i}.test")) for i in range(100)]
        await asyncio.sleep(0.05)
        assert addresses(await asks.find("a.test")) == ["1.1.1.1"]
        assert not any(task.done() for task in waiting)  # it waited for none of them
        assert threading.active_count() <= threads
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_answers_another_question_is_passed_over(tmp_path: Path) -> None:
    async with name_server({("a.test", "A"): ["1.1.1.1"]}) as server:
        send = server._send

        def forge(answer: bytes, address: object) -> None:
            send(bytes([answer[0] ^ 1]) + answer[1:-1] + b"\x09", address)
            send(b"nonsense", address)
            send(answer, address)

        server._send = forge  # type: ignore[method-assign]
        assert addresses(await server.lookup(tmp_path).find("a.test")) == ["1.1.1.1"]


def test_a_family_without_a_route_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Place(V6, "2001:db8::1"), Place(V4, "1.1.1.1"), Place(V4, "1.1.1.1")]
    monkeypatch.setattr(module, "_has_route", lambda address: False)
    assert in_order(places) == [Place(V4, "1.1.1.1"), Place(V6, "2001:db8::1")]
    monkeypatch.setattr(module, "_has_route", lambda address: True)
    assert in_order(places) == [Place(V6, "2001:db8::1"), Place(V4, "1.1.1.1")]
