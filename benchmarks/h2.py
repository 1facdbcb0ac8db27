"""HTTP/2 scenarios: 8 connections with 8 streams each, requests of alice, bob, of the path rule and of nobody's rule in turn.

Repeating heads over HTTP/1.1 and HTTP/2 upstream; heads of a browser with a trace id that never repeats, which goes through the client's
HPACK table as all its fields do; unary calls of gRPC that get 64 bytes back. h2load sends the repeating ones where it is installed.
"""

from collections.abc import Callable, Sequence

from benchmarks import h2load
from benchmarks.h2wire import TRACEPARENT, Fields
from benchmarks.http import BROWSER
from benchmarks.load.h2 import Question, plan, run
from benchmarks.scenario import Load, Scenario, Target, from_tally

CONNECTIONS = STREAMS = 8
WHO = (("/", "alice", "A"), ("/", "bob", "B"), ("/svc/items", "", "A"), ("/", "", "D"))
LIKE_A_BROWSER = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in BROWSER.decode().splitlines())]
SERVICE = [("user-agent", "load/1"), ("accept", "*/*"), ("accept-encoding", "gzip, deflate")]
MESSAGE = b"\x00\x00\x00\x00\x40" + b"m" * 64
"""A message of gRPC of 64 bytes, behind its five."""
CALL = [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "grpc-load/1"), ("grpc-accept-encoding", "gzip")]


def question(method: str, path: str, fields: Fields, user: str, who: str, message: bytes = b"") -> Question:
    """One request as a client says it."""
    begin = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.example")]
    asked = [*begin, *fields, *([("x-user", user)] if user else [])]
    return Question(asked, message or b"answered by " + who.encode() + b"\n", who, message)


REPEATING = [question("GET", path, SERVICE, user, who) for path, user, who in WHO]
UNIQUE = [question("GET", path, [*LIKE_A_BROWSER, TRACEPARENT], user, who) for path, user, who in WHO]
CALLS = [question("POST", f"{path.rstrip('/')}/echo.Echo/Unary", CALL, user, who, MESSAGE) for path, user, who in WHO]


def load_of(questions: Sequence[Question]) -> Callable[[Target, float], Load]:
    """What drives `questions`."""

    def drive(target: Target, seconds: float) -> Load:
        return from_tally(run(plan(target.port, questions, CONNECTIONS, STREAMS, seconds)))

    return drive


def repeating(target: Target, seconds: float) -> Load:
    """Repeating heads, by h2load if it is there."""
    if h2load.installed():
        return h2load.drive(target, seconds, [path for path, user, _ in WHO if not user], SERVICE, CONNECTIONS, STREAMS)
    return load_of(REPEATING)(target, seconds)


H2 = (
    Scenario("h2 repeating heads", "h2", "request", repeating),
    Scenario("h2 unique heads", "h2", "request", load_of(UNIQUE)),
    Scenario("h2 upstream, repeating heads", "h2-h2", "request", repeating),
    Scenario("h2 upstream, unique heads", "h2-h2", "request", load_of(UNIQUE), short=False),
    Scenario("grpc unary echo", "grpc", "call", load_of(CALLS)),
)
