"""WebSocket scenario: binary messages echoed on many connections, one under way on each."""

from benchmarks.load.flow import User, message_of
from benchmarks.load.run import Plan, run
from benchmarks.scenario import Load, Scenario, Target, from_tally

CONNECTIONS = 64
MESSAGE_SIZE = 128


def echo(target: Target, seconds: float) -> Load:
    """128-byte messages on 64 WebSockets."""
    names = [f"user-{number}" for number in range(CONNECTIONS)]
    users = [User(name, "127.0.0.1", target.port, message_of(name, MESSAGE_SIZE), path="/ws") for name in names]
    return from_tally(run(Plan("websocket", users, seconds)))


WEBSOCKET = (Scenario("websocket echo", "websocket", "message echoed", echo, direct=True, short=False),)
