"""One request, one line, that can be parsed, without a raw control byte and without a secret, whatever came: a real proxy, raw bytes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.carrier.observe.test_access import logged
from tests.conversation import Stage
from tests.support import wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"
SECRET = b"s3cr3t-of-john"
ENVOY = re.compile(r'\[[^]]+\] "((?:[^"\\]|\\.)*)" \d+ \S+ \d+ \d+ \d+ (?:[^" ]|\\.)+ (?:"(?:[^"\\]|\\.)*" ?){5}')
LEAKS = {
    "a header that is written": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer SECRET\r\nCookie: a=SECRET\r\n\r\n",
    "a proxy's header": b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic SECRET\r\n\r\n",
    "a query": b"GET /a?token=SECRET HTTP/1.1\r\nHost: a\r\n\r\n",
    "a user in the target": b"GET http://john:SECRET@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a user to connect as": b"CONNECT john:SECRET@a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "a user in Host": b"GET / HTTP/1.1\r\nHost: john:SECRET@a\r\n\r\n",
    "a line without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization Bearer SECRET\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer SECRET\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n SECRET\r\n\r\n",
    "a control byte in a value": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: \x01SECRET\r\n\r\n",
    "a first line that is none": b"Authorization: Bearer SECRET\r\n\r\n",
    "a query with a blank": b"GET /a b?token=SECRET HTTP/1.1\r\nHost: a\r\n\r\n",
    "a length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: SECRET\r\n\r\n",
    "a coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: SECRET\r\n\r\n",
    "an expectation": b"POST / HTTP/1.1\r\nHost: a\r\nExpect: SECRET\r\nContent-Length: 1\r\n\r\n",
    "an id": b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: SECRET\r\n\r\n",
    "an agent": b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: SECRET\r\n\r\n",
    "a field of the configuration": b"GET / HTTP/1.1\r\nHost: a\r\nX-Custom: SECRET\r\n\r\n",
    "a chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
}


async def sent(stage: Stage, data: bytes) -> None:
    """On a connection of its own, as far as it is taken; a server answers if it is asked."""
    client = await stage.client()
    try:
        await client.says(data)
        client.writer.write_eof()
        while await client.reader.read(65536):
            pass
    except OSError:
        pass
    finally:
        client.goes()


@pytest.mark.parametrize("form", ["json", "envoy"])
@pytest.mark.parametrize("what", LEAKS)
async def test_no_secret_is_in_a_line(what: str, form: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    rule = ({"matchHeader": {"name": "x-custom", "value": SECRET.decode()}}, "up", ())
    rule2 = ({"matchHeader": {"name": "authorization", "value": f"Bearer {SECRET.decode()}"}}, "up", ())
    settings: dict[str, Any] = {
        "format": form,
        "query": False,
        "headers": ("authorization", "cookie", "proxy-authorization", "x-custom", "user-agent"),
        "redact": ("X-Custom", "user-agent", "x-request-id"),
    }
    async with Stage(rules=(rule, rule2)) as stage, logged(stage.proxy.env, file, **settings) as log:
        stage.shuts()
        await sent(stage, LEAKS[what].replace(b"SECRET", SECRET))
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        log.flush()
        await wait_until(lambda: log.written >= 1, "for a line")
    text = file.read_bytes()
    assert text.count(b"\n") == 1 and SECRET not in text and SECRET[:8] not in text, text


def odd_requests(seed: int, count: int) -> list[bytes]:
    """Requests with any byte anywhere."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        parts = [
            b"GET",
            b" ",
            b"/",
            b"a?b=c",
            b" ",
            b"HTTP/1.1",
            b"\r\n",
            b"Host: a",
            b"\r\n",
            b"User-Agent: x",
            b"\r\n",
            b"X-Request-Id: 1",
        ]
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(parts))
            parts[at] += bytes(chance.randrange(256) for _ in range(chance.randrange(1, 4)))
        found.append(b"".join(parts).replace(b"\n\r", b"") + b"\r\n\r\n")
    return found


@pytest.mark.parametrize("form", ["json", "envoy"])
@pytest.mark.parametrize("seed", range(3))
async def test_one_request_is_one_line_that_can_be_parsed_without_a_raw_control_byte_whatever_came(
    form: str, seed: int, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, format=form, headers=("user-agent", "host")) as log:
        stage.shuts()
        sends = odd_requests(seed, 120)
        for data in sends:
            await sent(stage, data)
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        log.flush()
        await wait_until(lambda: log.written + log.dropped >= len(sends), "for the lines")
        assert log.dropped == 0
    text = file.read_text("utf-8", "surrogateescape")
    lines = text.split("\n")
    assert lines.pop() == "" and len(lines) >= len(sends)
    for line in lines:
        assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F for char in line), line
        if form == "json":
            shown = json.dumps(json.loads(line), ensure_ascii=False)
            assert not any(ord(char) < 32 or 0x7F <= ord(char) <= 0x9F for char in shown), line
        else:
            assert ENVOY.fullmatch(line), line
