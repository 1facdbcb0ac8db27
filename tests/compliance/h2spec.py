"""h2spec, a conformance test of HTTP/2, run against a port with TLS and one without: `make h2spec`. Every case in strict mode."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from tests.compliance.gotools import built
from tests.pki import Pki
from tests.support import config, port_of, running, tcp_server

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
CASES = 146


async def answering(peer: object) -> None:
    """A server of HTTP/1.1 that answers everything."""
    reader, writer = peer.reader, peer.writer  # type: ignore[attr-defined]
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in head:
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        elif b"chunked" in head:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100)  # a case needs a few bytes


async def judged(program: Path, port: int, *options: str) -> int:
    """How many cases pass."""
    process = await asyncio.create_subprocess_exec(
        program, "-S", "-h", "127.0.0.1", "-p", str(port), "-o", "3", *options, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 240)
    found = re.search(rb"(\d+) tests, (\d+) passed", out)
    if found is None or found[1] != found[2]:
        print(out.decode(errors="replace"))
    return int(found[2]) if found is not None else 0


async def main(program: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tls = Pki(Path(folder))("server", "localhost", "127.0.0.1")
        async with tcp_server(answering) as server:  # type: ignore[arg-type]
            conf = config(
                clusters=[
                    {"name": "up", "spec": {"protocol": "HTTP", "port": server.port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
                ],
                listeners=[
                    {
                        "name": name,
                        "spec": {"protocol": "HTTP", "port": 0, "address": "127.0.0.1", **spec},
                        "rules": [{"name": name, "action": {"route": {"destination": "up"}}}],
                        "options": {"protocols": ["h2"]},
                    }
                    for name, spec in (("clear", {}), ("tls", {"tls": tls}))
                ],
            )
            async with running(conf) as proxy:
                clear = await judged(program, port_of(proxy, "clear"))
                secure = await judged(program, port_of(proxy, "tls"), "-t", "-k")
    print(f"h2spec, strict: {clear} of {CASES} in clear text, {secure} of {CASES} over TLS")
    return 0 if clear == secure == CASES else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(built(MODULE) / "h2spec")))
