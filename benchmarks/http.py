"""HTTP scenarios. Requests of alice, bob, of the path rule and of nobody's rule take turns, so that every rule is met.

Repeating heads are what a service sees from its neighbours; unique heads (a browser's 13 headers and a trace id that never repeats) are
what it sees from a tracing front. New connections carry one request each: what is kept of each would show as growth. wrk sends them
where it is installed, otherwise our own generator.
"""

from collections.abc import Callable, Sequence

from benchmarks import wrk
from benchmarks.load.flow import User
from benchmarks.load.http import TRACE
from benchmarks.load.run import Plan, run
from benchmarks.scenario import Load, Scenario, Target, from_tally

WHO = ((b"/", b"x-user: alice\r\n"), (b"/", b"x-user: bob\r\n"), (b"/svc/items", b""), (b"/", b""))
BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Pragma: no-cache\r\n"
    b"Referer: http://app.example/orders?page=2\r\n"
    b'Sec-CH-UA: "Chromium";v="130", "Not?A_Brand";v="99"\r\n'
    b"Sec-CH-UA-Mobile: ?0\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Cookie: session=9f86d081884c7d659a2feaa0c55ad015; theme=dark; consent=yes\r\n"
)
TRACED = BROWSER + b"traceparent: 00-4bf92f3577b34da6" + TRACE + b"-00f067aa0ba902b7-01\r\n"
POST = 16 * 1024


def request(method: bytes, path: bytes, headers: bytes, body: bytes = b"", host: bytes = b"app.example") -> bytes:
    """One request as it goes over the wire."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n%b" % (method, path, host, headers, length, body)


REPEATING = [request(b"GET", path, b"Accept: */*\r\n" + user) for path, user in WHO]
UNIQUE = [request(b"GET", path, TRACED + user) for path, user in WHO]
BOTH_UNIQUE = [request(b"GET", b"/unique", TRACED + user) for _, user in WHO]
CLOSING = [request(b"GET", path, b"Accept: */*\r\nConnection: close\r\n" + user) for path, user in WHO]
LARGE_ANSWERS = [request(b"GET", b"/64k", b"Accept: */*\r\n" + user) for _, user in WHO]
POSTS = [request(b"POST", path, b"Content-Type: text/plain\r\n" + user, b"p" * POST) for path, user in WHO]


def load_of(requests: Sequence[bytes], connections: int, scheme: str = "http") -> Callable[[Target, float], Load]:
    """What drives `requests` over `connections` keep-alive connections, one request at a time on each. Over TLS only wrk does."""

    def drive(target: Target, seconds: float) -> Load:
        if wrk.installed():
            return wrk.drive(target, seconds, requests, connections, scheme)
        if scheme != "http":
            raise RuntimeError("TLS is asked for by wrk only, which is not installed")
        users = [User(f"user-{number}", "127.0.0.1", target.port, requests[number % len(requests)]) for number in range(connections)]
        return from_tally(run(Plan("http", users, seconds)))

    return drive


HTTP = (
    Scenario("http repeating heads", "http", "request", load_of(REPEATING, 64)),
    Scenario("http unique heads", "http", "request", load_of(UNIQUE, 64)),
    Scenario("http unique heads and answers", "http", "request", load_of(BOTH_UNIQUE, 64), short=False),
    Scenario("http 64 KiB answers", "large", "request", load_of(LARGE_ANSWERS, 64)),
    Scenario("http 16 KiB posts", "large", "request", load_of(POSTS, 64)),
    Scenario("http 512 connections", "http", "request", load_of(REPEATING, 512), short=False),
    Scenario("http new connections", "http", "request", load_of(CLOSING, 64), short=False),
)
TLS = (
    Scenario("tls repeating heads", "tls", "request", load_of(REPEATING, 64, "https"), short=False),
    Scenario("tls new connections", "tls", "request", load_of(CLOSING, 64, "https"), short=False),
)
RULES = (
    Scenario("rules repeating heads", "rules", "request", load_of(REPEATING, 64), short=False),
    Scenario("rules unique heads", "rules", "request", load_of(UNIQUE, 64), short=False),
)
