"""Every recipe of docs/examples does what its first line says: run as it stands, but for ports and files, with real peers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
import websockets

from carrier.config.source import loads
from carrier.log import Log
from carrier.process.serve import Server, Settings, start
from tests.ports import free_port
from tests.support import wait_until

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
ELSEWHERE = {"quickstart.yaml": "tests/test_docs.py", "pod.yaml": "it needs the names of a cluster"}
"""Examples that are run by other tests, or whose peers have names that only a cluster knows."""
Answer = Callable[[bytes], bytes]


class Kitchen:
    """An example with free ports and files of the test, the peers that it names, and the proxy that runs it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.text = (EXAMPLES / name).read_text()
        self.ports = {number: free_port() for number in sorted(set(re.findall(r"port: (\d+)", self.text)))}
        for number, port in self.ports.items():
            self.text = re.sub(rf"port: {number}\b", f"port: {port}", self.text)
        self.folder = folder
        self.text = re.sub(r"/(run|tls)/", f"{folder}/", self.text)
        self.stack = contextlib.AsyncExitStack()
        self.asked: Counter[int] = Counter()
        self.heads: list[bytes] = []
        self.server: Server | None = None

    def port(self, number: int) -> int:
        return self.ports[str(number)]

    async def serve(self, number: int, status: str = "200 OK") -> None:
        """An HTTP server on the port that the example calls `number`, which says which one it is."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    self.heads.append(head)
                    if b"/healthz" not in head:
                        self.asked[number] += 1
                    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\n{number}".encode())
            writer.close()

        await self.peer(await asyncio.start_server(answer, "127.0.0.1", self.port(number)))

    async def peer(self, server: asyncio.Server) -> None:
        self.stack.push_async_callback(server.wait_closed)
        self.stack.callback(server.close)

    async def begin(self) -> None:
        loaded = loads(self.text, "yaml")
        self.server = await start(loaded.config, Log("silent"), Settings(None))
        self.stack.push_async_callback(self.server.close)

    async def get(self, path: str = "/", *fields: str, port: int = 8080, tls: ssl.SSLContext | None = None) -> bytes:
        host = "localhost" if tls is not None else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port(port), ssl=tls, server_hostname=host)
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "host: a", "connection: close", *fields, "", ""]).encode())
        found = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return found


@pytest.fixture
async def kitchen(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kitchen]:
    found = Kitchen(request.param, tmp_path)
    async with found.stack:
        yield found


def recipe(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kitchen", [f"{name}.yaml"], indirect=True)


def test_every_recipe_is_run_by_a_test() -> None:
    run = set(re.findall(r'^@recipe\("([\w-]+)"\)', Path(__file__).read_text(), re.M))
    assert {file.name for file in EXAMPLES.glob("*.yaml")} == {f"{name}.yaml" for name in run} | set(ELSEWHERE)
    assert all(file.read_text().startswith("# ") for file in EXAMPLES.glob("*.yaml"))


async def udp(port: int) -> tuple[asyncio.DatagramTransport, asyncio.Queue[bytes]]:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    class Peer(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            heard.put_nowait(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Peer, remote_addr=("127.0.0.1", port))
    return transport, heard


@recipe("udp-to-websocket")
async def test_datagrams_become_messages_of_a_websocket(kitchen: Kitchen) -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(b"ws " + (message if isinstance(message, bytes) else message.encode()))

    async with websockets.serve(echo, "127.0.0.1", kitchen.port(8081)):
        await kitchen.begin()
        client, heard = await udp(kitchen.port(5000))
        for word in (b"one", b"two"):
            client.sendto(word)
            assert await asyncio.wait_for(heard.get(), 10) == b"ws " + word
        client.close()


@recipe("tcp-to-unix")
async def test_a_port_leads_to_a_socket_file(kitchen: Kitchen) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"file: " + await reader.read())
        writer.close()

    await kitchen.peer(await asyncio.start_unix_server(answer, kitchen.folder / "app.sock"))
    await kitchen.begin()
    reader, writer = await asyncio.open_connection("127.0.0.1", kitchen.port(8080))
    writer.write(b"hello")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b"file: hello"
    writer.close()


@recipe("tls-front")
async def test_tls_ends_in_front_of_a_plain_server(kitchen: Kitchen) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(kitchen.folder / "tls.key")
    (kitchen.folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    await kitchen.serve(8080)
    await kitchen.begin()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert (await kitchen.get(port=8443, tls=context)).endswith(b"8080")
    assert b"x-forwarded-proto: https" in kitchen.heads[-1]


@recipe("sni-passthrough")
async def test_the_name_that_is_asked_for_chooses_the_server_and_nothing_is_decrypted(kitchen: Kitchen) -> None:
    authority = trustme.CA()
    for number, name in ((9443, "shop.example"), (9444, "main.example")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int = number) -> None:
            writer.write(str(number).encode())
            writer.close()

        await kitchen.peer(await asyncio.start_server(answer, "127.0.0.1", kitchen.port(number), ssl=context))
    await kitchen.begin()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    for name, wanted in (("shop.example", b"9443"), ("main.example", b"9444")):
        reader, writer = await asyncio.open_connection("127.0.0.1", kitchen.port(8443), ssl=trust, server_hostname=name)
        assert await asyncio.wait_for(reader.read(), 10) == wanted
        writer.close()


@recipe("canary")
async def test_one_request_in_ten_meets_the_canary_and_who_asks_for_it_always(kitchen: Kitchen) -> None:
    await kitchen.serve(8081)
    await kitchen.serve(8082)
    await kitchen.begin()
    for _ in range(20):
        await kitchen.get()
    assert kitchen.asked == {8081: 18, 8082: 2}
    for _ in range(3):
        assert (await kitchen.get("/", "x-canary: always")).endswith(b"8082")


@recipe("mirror")
async def test_the_second_server_gets_a_copy_and_the_first_one_answers(kitchen: Kitchen) -> None:
    await kitchen.serve(8081)
    await kitchen.serve(8082)
    await kitchen.begin()
    assert (await kitchen.get("/copied")).endswith(b"8081")
    await wait_until(lambda: kitchen.asked[8082] == 1, "for the copy")
    assert sum(head.startswith(b"GET /copied ") for head in kitchen.heads) == 2


@recipe("sticky")
async def test_a_session_stays_where_it_began(kitchen: Kitchen) -> None:
    await kitchen.serve(8081)
    await kitchen.serve(8082)
    await kitchen.begin()
    for session in range(12):
        answers = {(await kitchen.get("/", f"x-session: {session}"))[-4:] for _ in range(3)}
        assert len(answers) == 1
    assert set(kitchen.asked) == {8081, 8082}, "twelve sessions at one endpoint: chance has one in 2,048"


@recipe("rewrite")
async def test_the_old_path_is_asked_under_the_new_one(kitchen: Kitchen) -> None:
    await kitchen.serve(8081)
    await kitchen.begin()
    await kitchen.get("/old")
    assert kitchen.heads[-1].startswith(b"GET /new HTTP/1.1") and b"x-team: shop" in kitchen.heads[-1]
    await kitchen.get("/other")
    assert kitchen.heads[-1].startswith(b"GET /other ") and b"x-team" not in kitchen.heads[-1]


@recipe("retries")
async def test_another_endpoint_is_tried_and_at_last_the_fallback_answers(kitchen: Kitchen) -> None:
    await kitchen.serve(8081, "503 Service Unavailable")
    await kitchen.serve(8082)
    await kitchen.begin()
    assert [(await kitchen.get())[-4:] for _ in range(4)] == [b"8082"] * 4
    assert kitchen.asked[8081] >= 1
    other = Kitchen("retries.yaml", kitchen.folder)
    async with other.stack:
        await other.begin()
        answer = await other.get()
        assert answer.endswith(b"back soon\n") and b"x-carrier-fallback: refused" in answer


@recipe("health-checks")
async def test_an_endpoint_that_is_ill_is_left_out_until_it_is_well(kitchen: Kitchen) -> None:
    await kitchen.serve(8081)
    await kitchen.serve(8082, "503 Service Unavailable")
    await kitchen.begin()
    assert kitchen.server is not None
    endpoints = kitchen.server.proxy.clusters["app"].endpoints
    await wait_until(lambda: [endpoint.up for endpoint in endpoints] == [True, False], "for two failures")
    assert [(await kitchen.get())[-4:] for _ in range(4)] == [b"8081"] * 4
    assert any(b"GET /healthz " in head for head in kitchen.heads)


@recipe("jsonsocket")
async def test_the_header_of_a_stream_decides(kitchen: Kitchen) -> None:
    got = asyncio.get_running_loop().create_future()

    async def john(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read(100))
        writer.close()

    await kitchen.peer(await asyncio.start_server(john, "127.0.0.1", kitchen.port(9001)))
    await kitchen.begin()
    reader, writer = await asyncio.open_connection("127.0.0.1", kitchen.port(9000))
    writer.write(b'{"JSONSocketVersion":1,"user":"john"}hello\n')
    assert b'"JSONSocketStatus":200' in await asyncio.wait_for(reader.readline(), 10)
    assert await asyncio.wait_for(got, 10) == b"hello\n"
    writer.close()


@recipe("stdio")
async def test_each_connection_has_a_command(kitchen: Kitchen) -> None:
    await kitchen.begin()
    reader, writer = await asyncio.open_connection("127.0.0.1", kitchen.port(7000))
    writer.write(b"b\na\n")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b"a\nb\n"
    writer.close()


@recipe("dns-gateway")
async def test_questions_go_to_the_resolvers_in_turn(kitchen: Kitchen) -> None:
    loop = asyncio.get_running_loop()
    asked: Counter[int] = Counter()

    def resolver(number: int) -> type[asyncio.DatagramProtocol]:
        class Resolver(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                asked[number] += 1
                self.transport.sendto(b"answer to " + data, addr)  # type: ignore[attr-defined]

        return Resolver

    for number in (5301, 5302):
        transport, _ = await loop.create_datagram_endpoint(resolver(number), local_addr=("127.0.0.1", kitchen.port(number)))
        kitchen.stack.callback(transport.close)
    await kitchen.begin()
    for _ in range(4):
        client, heard = await udp(kitchen.port(5353))
        client.sendto(b"question")
        assert await asyncio.wait_for(heard.get(), 10) == b"answer to question"
        client.close()
    assert asked == {5301: 2, 5302: 2}
