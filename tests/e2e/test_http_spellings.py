"""No spelling of a path or a header slips past a rule: through the real proxy each is matched, or refused with 4xx (issue 3, figures).

A rule for `/admin` leads to one server, everything else to another. A request that means `/admin` may reach only the first; it may also be
refused. What means something else may not reach the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from carrier import model as c
from tests.conversation import Peer, Stage

MATCHED, REFUSED, OTHER = "matched", "refused", "other"

PATHS: dict[bytes, str] = {
    b"/admin": MATCHED,
    b"/admin/": OTHER,
    b"/admin?x=1": MATCHED,
    b"/admin?": MATCHED,
    b"/admin?/../x": MATCHED,
    b"/./admin": MATCHED,
    b"/././admin": MATCHED,
    b"/x/../admin": MATCHED,
    b"/x/y/../../admin": MATCHED,
    b"/x/./../admin": MATCHED,
    b"/../admin": MATCHED,
    b"/../../admin": MATCHED,
    b"/%2e/admin": MATCHED,
    b"/%2E/admin": MATCHED,
    b"/x/%2e%2e/admin": MATCHED,
    b"/x/.%2e/admin": MATCHED,
    b"/x/%2E./admin": MATCHED,
    b"/%61dmin": MATCHED,
    b"/%61%64%6d%69%6e": MATCHED,
    b"/%61%64%6D%69%6E": MATCHED,
    b"/a%64min": MATCHED,
    b"/admi%6e": MATCHED,
    b"/admi%6E?x": MATCHED,
    b"http://a/admin": MATCHED,
    b"HTTP://a/admin": MATCHED,
    b"http://A/admin": MATCHED,
    b"http://a:80/admin": MATCHED,
    b"http://a/x/../admin": MATCHED,
    b"http://a/%61dmin": MATCHED,
    b"https://a/admin": MATCHED,
    b"http://b/admin": REFUSED,
    b"http://u@a/admin": REFUSED,
    b"ftp://a/admin": REFUSED,
    b"admin": REFUSED,
    b"/admin#f": REFUSED,
    b"/admin\\": REFUSED,
    b"\\admin": REFUSED,
    b"/x\\..\\admin": REFUSED,
    b"/admin\x00": REFUSED,
    b"/admin\x01": REFUSED,
    b"/admin\x7f": REFUSED,
    b"/admin\t": REFUSED,
    b"/adm\x80in": REFUSED,
    b"/%admin": OTHER,
    b"/admin%": REFUSED,
    b"/admin%2": REFUSED,
    b"/admin%zz": REFUSED,
    b"/admin%u0061": REFUSED,
    b"/admin |": REFUSED,
    b"/{admin}": REFUSED,
    b"*": REFUSED,
    b"//admin": MATCHED,
    b"/admin%00": OTHER,
    b"/admin%2f": OTHER,
    b"/admin%2Fx": OTHER,
    b"/%2fadmin": OTHER,
    b"/admin;x": OTHER,
    b"/admin;x=1": OTHER,
    b"/admin%20": OTHER,
    b"/admin.": OTHER,
    b"/ADMIN": OTHER,
    b"/%2561dmin": OTHER,
    b"/%c0%ae%c0%ae/admin": OTHER,
    b"/%c1%a1dmin": OTHER,
    b"/%ef%bc%a1dmin": OTHER,
    b"/admin/../x": OTHER,
    b"/admin/..": OTHER,
    b"/adminx": OTHER,
}
"""Target -> what must become of it. OTHER: RFC 3986 tells it apart from /admin."""

HEADERS: dict[bytes, str] = {  # of several lines, or a list, each member is looked at
    b"x-user: admin": MATCHED,
    b"X-User: admin": MATCHED,
    b"X-USER:admin": MATCHED,
    b"x-user:\t admin \t": MATCHED,
    b"x-user: admin\r\nconnection: x-user": MATCHED,
    b"connection: close, X-User\r\nx-user: admin": MATCHED,
    b"x-user: admin\r\nte: trailers": MATCHED,
    b"x-user: me\r\nx-user: admin": MATCHED,
    b"x-user: admin\r\nx-user: admin": MATCHED,
    b"x-user: admin, me": MATCHED,
    b"x-user: Admin": OTHER,
    b'x-user: "admin"': OTHER,
    b"x-user2: admin": OTHER,
    b"x-user : admin": REFUSED,
    b" x-user: admin": REFUSED,
    b"x-user: ad\r\n min": REFUSED,
    b"x-user:\r\n admin": REFUSED,
    b"x-user: admin\x00": REFUSED,
    b"x-user: admin\r": REFUSED,
    b"x-user: x\nx-user: admin": REFUSED,
    b"x_user: admin": REFUSED,
    b"X_User: admin": REFUSED,
    b"x-user": REFUSED,
    b"x-us\x00er: admin": REFUSED,
    b": admin": REFUSED,
}


class Fixed:
    """Two servers that say who they are, behind one proxy."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def verdict(self, request: bytes) -> str:
        client = await self.stage.client()
        await client.says(request)
        head = await client.head()
        client.breaks()
        if head[9:10] == b"4":
            return REFUSED
        assert head.startswith(b"HTTP/1.1 200 "), head
        return MATCHED if b"x-who: admin" in head else OTHER


async def says_who(stage: Stage, who: bytes) -> None:
    async def serve(server: Peer) -> None:
        try:
            while True:
                await server.reader.readuntil(b"\r\n\r\n")
                await server.says(b"HTTP/1.1 200 OK\r\nx-who: " + who + b"\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    serving = set()
    while True:
        serving.add(asyncio.create_task(serve(await stage.accepted.get())))


@pytest_asyncio.fixture
async def fixed() -> AsyncIterator[Fixed]:
    async with Stage() as admin:
        cluster = c.Cluster("admin", {"protocol": "HTTP", "port": admin.backend_port}, (c.EndPoint("o", {"address": "127.0.0.1"}),))
        rules = (
            ({"matchPath": {"path": "/admin", "type": "exact"}}, "admin", ()),
            ({"matchHeader": {"name": "x-user", "value": "admin"}}, "admin", ()),
        )
        async with Stage(rules=rules, clusters={"admin": cluster}, listener={"strict_path": 0}) as stage:  # else those are refused
            tasks = [asyncio.create_task(says_who(admin, b"admin")), asyncio.create_task(says_who(stage, b"other"))]
            yield Fixed(stage)
            for task in tasks:
                task.cancel()


async def test_no_spelling_of_a_path_passes_its_rule(fixed: Fixed) -> None:
    assert len(PATHS) >= 60
    seen = {path: await fixed.verdict(b"GET " + path + b" HTTP/1.1\r\nhost: a\r\n\r\n") for path in PATHS}
    assert seen == PATHS


async def test_nor_does_it_on_the_slow_way(fixed: Fixed) -> None:
    seen = {path: await fixed.verdict(b"GET " + path + b" HTTP/1.0\r\nhost: a\r\n\r\n") for path in PATHS}
    assert seen == PATHS


async def test_no_spelling_of_a_header_passes_its_rule(fixed: Fixed) -> None:
    seen = {line: await fixed.verdict(b"GET / HTTP/1.1\r\nhost: a\r\n" + line + b"\r\n\r\n") for line in HEADERS}
    assert seen == HEADERS


async def test_a_spelling_once_memoised_is_decided_the_same_again(fixed: Fixed) -> None:
    for _ in range(3):
        for path in (b"/%61dmin", b"/adminx", b"/x/../admin"):
            assert await fixed.verdict(b"GET " + path + b" HTTP/1.1\r\nhost: a\r\n\r\n") == PATHS[path]
