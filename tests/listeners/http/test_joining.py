"""Join links: which bridges a browser can join, and who may not be led into one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.bridges import tokens
from carrier.bridges.edits import Bridges
from carrier.model import Bridge
from carrier.proxy.proxy import Proxy
from listeners.http.joining import Joining, cookies_of
from tests import support as s
from tests.ports import free_port

JOHN = {"matchCookie": {"name": "user", "value": "john"}}
CART = {"matchPath": {"path": "/cart", "type": "prefix"}}
HEADER = {"matchHeader": {"name": "x-user", "value": "john"}}


def bridge(**spec: Any) -> Bridge:
    return Bridge("john", "john", spec, "web", ("bridge/john",), "bridge/john")


@pytest.mark.parametrize(
    ("spec", "cookies"),
    [
        ({"match": JOHN}, {"user": "john"}),
        ({"match": [JOHN, CART]}, {"user": "john"}),
        ({"rules": [{"match": [HEADER]}, {"match": [JOHN]}]}, {"user": "john"}),
        ({"match": {"any": [[HEADER], [JOHN]]}}, {"user": "john"}),
        ({"match": [JOHN, {"matchCookie": {"name": "b", "value": "2"}}]}, {"user": "john", "b": "2"}),
    ],
)
def test_a_bridge_that_a_cookie_is_enough_for_can_be_joined(spec: dict[str, Any], cookies: dict[str, str]):
    assert cookies_of(bridge(**spec)) == (cookies, "")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"match": HEADER}, "it also asks for header x-user"),
        ({"match": CART}, "asks for no cookie"),
        ({"type": "stream"}, "asks for no cookie"),
        ({"match": [JOHN, HEADER]}, "it also asks for header x-user"),
        ({"match": {"matchCookie": {"name": "user", "value": "jo", "type": "prefix"}}}, "it also asks for cookie user"),
        ({"match": {"matchCookie": {"name": "user", "value": "a;b"}}}, "characters that no cookie may have"),
        ({"match": {"matchCookie": {"name": "us er", "value": "john"}}}, "characters that no cookie may have"),
    ],
)
def test_of_any_other_it_is_said_why_not(spec: dict[str, Any], why: str):
    cookies, said = cookies_of(bridge(**spec))
    assert cookies == {} and why in said


@contextlib.asynccontextmanager
async def web(match: Any = JOHN, **more: Any) -> AsyncIterator[tuple[Proxy, int, str]]:
    """A port with join links and john's bridge: the proxy, the port, the link's path."""
    fresh, port = tokens.make(), free_port()
    shadow = {"name": "shadow", "spec": {"protocol": "Answer", "body": "shadow"}}
    listener = s.listener("web", "shadow", protocol="HTTP", port=port, options={"join": True})
    async with s.running(s.config(clusters=[shadow], listeners=[listener])) as proxy:
        proxy.env.tokens = tokens.Tokens(lambda: proxy.config)
        body = {"user": "john", "port": port, "match": match, "endpoint": f"127.0.0.1:{free_port()}", "token": fresh.digest, **more}
        async with proxy.lock:
            await proxy.apply(Bridges().put(proxy.config, "jo hn/1".replace(" ", "-"), body))
        yield proxy, port, f"/.carrier/join/jo-hn%2F1?token={fresh.token}"


async def test_a_link_sets_the_cookie_as_long_as_the_lease_and_goes_on():
    async with web(expires=600) as (_, port, link):
        status, fields, _ = await s.http(port, link)
        assert status == 303 and fields["location"] == "/" and fields["cache-control"] == "no-store"
        pair, path, age, *flags = fields["set-cookie"].split("; ")
        assert (pair, path, flags) == ("user=john", "Path=/", ["HttpOnly", "SameSite=Lax"])
        assert 590 <= int(age.removeprefix("Max-Age=")) <= 600
        status, fields, _ = await s.http(port, link + "&to=/cart?a=b%26c")
        assert status == 303 and fields["location"] == "/cart?a=b&c"


async def test_a_cookie_of_a_bridge_without_an_end_lasts_a_day():
    async with web() as (_, port, link):
        assert "Max-Age=86400" in (await s.http(port, link))[1]["set-cookie"]


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/%0d%0aset-cookie: a=b", "/\t/evil", "/%09/evil", "\\"]
)
async def test_nobody_is_sent_to_another_host(to: str):
    async with web() as (_, port, link):
        status, fields, body = await s.http(port, f"{link}&to={to}".replace("\t", "%09").replace("\\", "%5C").replace(" ", "%20"))
        assert status == (303 if to == "" else 400) and fields.get("location", "/") == "/" and ("set-cookie" in fields) == (to == ""), body


async def test_a_bridge_without_a_cookie_says_in_words_why_it_cannot_be_joined():
    async with web(HEADER) as (_, port, link):
        status, fields, body = await s.http(port, link)
        assert status == 409 and "set-cookie" not in fields and b"header x-user" in body


async def test_without_the_token_every_name_is_answered_alike():
    async with web() as (_, port, link):
        known, unknown = link.partition("?")[0], "/.carrier/join/nobody"
        asked = [known, unknown, link + "x", link.replace("jo-hn%2F1", "nobody"), known + "?token="]
        answers = {(status, body) for status, _, body in [await s.http(port, path) for path in asked]}
        assert len(answers) == 1 and next(iter(answers))[0] == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"sec-purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x-moz": "prefetch"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe", "sec-fetch-user": "?1"},
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    ],
)
async def test_what_the_user_has_not_opened_joins_and_leaves_nothing(fields: dict[str, str]):
    async with web() as (_, port, link):
        for path in (link, "/.carrier/leave"):
            status, answer, _ = await s.http(port, path, headers={**fields, "cookie": "user=john"})
            assert status == 403 and "set-cookie" not in answer


async def test_a_click_on_another_site_and_an_address_that_was_typed_join():
    click = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "sec-fetch-user": "?1"}
    typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with web() as (_, port, link):
        for fields in (click, typed):
            assert (await s.http(port, link, headers=fields))[0] == 303


async def test_other_methods_are_not_for_links():
    async with web() as (_, port, link):
        for method in ("POST", "HEAD", "PUT"):
            status, fields, _ = await s.http(port, link, method, body=b"x" if method != "HEAD" else b"")
            assert status == 405 and fields["allow"] == "GET" and "set-cookie" not in fields


async def test_leaving_takes_away_the_cookies_that_were_shown_and_no_others():
    async with web() as (_, port, _):
        status, fields, _ = await s.http(port, "/.carrier/leave?to=/bye", headers={"cookie": "a=b; user=john"})
        assert status == 303 and fields["location"] == "/bye" and fields["set-cookie"].startswith("user=; Path=/; Max-Age=0;")
        assert "set-cookie" not in (await s.http(port, "/.carrier/leave", headers={"cookie": "user=jane"}))[1]


async def test_behind_a_proxy_that_is_believed_and_that_spoke_tls_the_cookie_is_secure():
    async with web() as (proxy, port, link):
        assert "Secure" not in (await s.http(port, link, headers={"x-forwarded-proto": "https"}))[1]["set-cookie"]
        listener = s.listener(
            "web", "shadow", protocol="HTTP", port=port, rules="web-RuleList-0", options={"join": True, "trusted": ["127.0.0.1"]}
        )
        async with proxy.lock:
            await proxy.apply(s.config(base=proxy.config, listeners=[{**listener, "rules": proxy.config.listeners["web"].rules}]))
        assert (await s.http(port, link, headers={"x-forwarded-proto": "https"}))[1]["set-cookie"].endswith("; Secure")


async def test_where_it_is_off_the_paths_are_the_app_s():
    port = free_port()
    shadow = {"name": "shadow", "spec": {"protocol": "Answer", "body": "shadow"}}
    async with s.running(s.config(clusters=[shadow], listeners=[s.listener("web", "shadow", protocol="HTTP", port=port)])):
        for path in ("/.carrier/join/john", "/.carrier/leave"):
            assert (await s.http(port, path))[2] == b"shadow"


def test_other_paths_are_the_app_s_also_where_it_is_on():
    assert Joining.takes(b"/.carrier/join/x?token=y") and Joining.takes(b"/.carrier/leave?to=/") and Joining.takes(b"/.carrier/leave")
    assert not any(map(Joining.takes, (b"/", b"/.carrier/", b"/.carrier/joined", b"/.carrier/leaves", b"/x/.carrier/join/y")))


async def test_no_session_that_is_listed_has_the_token_of_a_link():
    async with web() as (proxy, port, link):
        proxy.listeners["web"].track = 60
        await s.http(port, link)
        await s.wait_until(lambda: list(proxy.sessions()))
        shown = [session.dump() for session in proxy.sessions()]
        assert shown[0]["metadata"]["HTTP"]["url"]["path"] == "/.carrier/join/jo-hn%2F1" and "token" not in str(shown)
