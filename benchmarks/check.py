"""Is a peer doing the job before it is timed? Each of these raises `WrongRoute` with what was asked, wanted and seen."""

import contextlib
import http.client
import socket
import ssl
import time

from benchmarks import frames, h2check
from benchmarks.peers import H2, Job

SECONDS = 2.0
UDP_SECONDS = 5.0
UDP_TRY_SECONDS = 0.1


class WrongRoute(RuntimeError):
    """A peer answered from the wrong place, or not at all."""


def check(job: Job, routes: bool) -> None:
    """Ask every question that the job answers; of a relay that does not route, only what its default answers."""
    if job.protocol == "websocket":
        check_websocket(job)
    elif job.protocol in H2:
        check_h2(job)
    elif job.parses_http:
        check_http(job, routes)
    elif job.protocol == "tcp":
        check_tcp(job.port)
    elif job.protocol == "udp":
        check_udp(job.port)


def questions(job: Job) -> list[tuple[str, dict[str, str], str]]:
    """(path, headers, backend that must answer) for each rule, for what misses each rule, and for two rules at once (the first wins)."""
    asked = [("/", {job.header: value}, name) for value, name in job.users.items()]
    asked += [(job.prefix + "x", {job.header: value}, name) for value, name in job.users.items()]
    asked += [(job.prefix + "x", {}, job.prefix_to), ("/", {}, job.default), ("/other", {job.header: "carol"}, job.default)]
    return asked


def check_http(job: Job, routes: bool) -> None:
    """One request each, all on one keep-alive connection."""
    connection = http.client.HTTPConnection("127.0.0.1", job.port, timeout=SECONDS)
    if job.protocol == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", job.port, timeout=SECONDS, context=context)
    try:
        for path, headers, wanted in questions(job) if routes else [("/", {}, job.default)]:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            seen = answer.headers.get("x-backend")
            if answer.status != 200 or seen != wanted:
                raise WrongRoute(f"GET {path} {headers}: wanted 200 from {wanted}, got {answer.status} from {seen}")
    except (OSError, http.client.HTTPException) as error:
        raise WrongRoute(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()


def check_h2(job: Job) -> None:
    """The same over HTTP/2; a job for gRPC by calls, whose message has to come back, and a status of 0 behind it."""
    message = b"\x00\x00\x00\x00\x05hello" if job.protocol == "grpc" else b""
    try:
        with h2check.Client(job.port, SECONDS) as client:
            for path, headers, wanted in questions(job):
                pseudo = [(":method", "POST" if message else "GET"), (":scheme", "http"), (":authority", "app.example"), (":path", path)]
                call = [("te", "trailers"), ("content-type", "application/grpc")] if message else []
                head, body, trailers = client.ask([*pseudo, *call, *headers.items()], message)
                seen = head.get("x-backend")
                if head.get(":status") != "200" or seen != wanted:
                    raise WrongRoute(f"{path} {headers}: wanted 200 from {wanted}, got {head.get(':status')} from {seen}")
                if message and (body != message or trailers.get("grpc-status") != "0"):
                    raise WrongRoute(f"{path} {headers}: wanted the message and grpc-status 0, got {body!r} and {trailers}")
    except OSError as error:
        raise WrongRoute(f"no answer over HTTP/2: {error!r}") from error


def check_websocket(job: Job) -> None:
    """A handshake, and one message that comes back."""
    head, accept = frames.request(f"127.0.0.1:{job.port}", "/ws")
    with socket.create_connection(("127.0.0.1", job.port), SECONDS) as sock:
        sock.sendall(head)
        answer = sock.recv(4096)
        if b" 101 " not in answer[:16] or accept not in answer:
            raise WrongRoute(f"WebSocket handshake: got {answer[:60]!r}")
        sock.sendall(frames.build(b"hello", mask=b"abcd"))
        seen, _ = frames.split(sock.recv(4096))
    if seen != [(frames.BINARY, b"hello")]:
        raise WrongRoute(f"WebSocket echo: sent hello, got {seen}")


def check_tcp(port: int) -> None:
    """One message that comes back."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(b"hello")
        seen = sock.recv(64)
    if seen != b"hello":
        raise WrongRoute(f"TCP echo: sent hello, got {seen!r}")


def check_udp(port: int) -> None:
    """One datagram that comes back. UDP does not say when its listener is up, so it is tried again until then."""
    limit = time.monotonic() + UDP_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(UDP_TRY_SECONDS)
        sock.connect(("127.0.0.1", port))
        while time.monotonic() < limit:
            try:
                sock.send(b"hello")
                seen = sock.recv(64)
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                time.sleep(UDP_TRY_SECONDS)
                continue
            if seen == b"hello":
                return
    raise WrongRoute("UDP echo: sent hello, no echo")


def wait_for_sink(port: int, sink: int) -> None:
    """A datagram to `port` arrives at the sink: one way is all there is to check."""
    limit = time.monotonic() + UDP_SECONDS
    ask(sink)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        while time.monotonic() < limit:
            with contextlib.suppress(ConnectionRefusedError):
                sock.send(b"hello")
            time.sleep(UDP_TRY_SECONDS)
            if ask(sink):
                return
    raise WrongRoute("UDP one way: sent hello, it did not arrive")


def ask(sink: int) -> int:
    """How many datagrams the sink has counted since it was last asked. Raises TimeoutError when it says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", sink))
        sock.settimeout(SECONDS)
        sock.send(b"stats?")
        return int(sock.recv(64))
