"""Lines about sessions that have ended: many in one write, never the loop's own, the same remembered."""

from __future__ import annotations

import os
import threading
from typing import Any

from carrier.log import Log
from carrier.observe.endings import KEPT, Endings
from carrier.writer import to_descriptor


class Ended:
    """As much of a session as is looked at here."""

    def __init__(self, name: str, at: float = 1.0) -> None:
        self.name, self.ended_at = name, at


def told(session: Any) -> Any:
    return None if session.name == "quiet" else ("session ended", {"session": session.name})


def test_a_batch_is_one_write_of_another_thread() -> None:
    written: list[tuple[str, int]] = []
    endings = Endings(Log("verbose", lambda text: written.append((text, threading.get_ident()))), "verbose", told)
    endings.read([Ended("a"), Ended("quiet"), Ended("b")])
    endings.close()
    ((text, thread),) = written
    assert [line.split("session=")[1] for line in text.splitlines()] == ["a", "b"] and " verbose " in text
    assert thread != threading.get_ident()


def test_a_level_that_is_off_costs_and_writes_nothing() -> None:
    written: list[str] = []
    log = Log("info", written.append)
    endings = Endings(log, "verbose", told)
    endings.read([Ended("a")])
    log.set_level("verbose")
    endings.read([Ended("b")])
    endings.close()
    assert "".join(written).endswith("session=b\n") and len(written) == 1


def test_a_reader_that_reads_nothing_stops_nobody() -> None:
    reading, writing = os.pipe()
    try:
        write = to_descriptor(writing)
        endings = Endings(Log("verbose", write), "verbose", told)
        for _ in range(40):
            endings.read([Ended("x" * 20_000) for _ in range(64)])  # were it to wait for the reader, this would never end
        endings.close()
        assert endings.dropped + write.writer.dropped > 0
    finally:
        os.close(reading)  # the thread's write fails, and it ends
        endings.close()
        os.close(writing)


def test_what_is_the_same_of_one_head_decision_and_endpoint_is_made_once_and_bounded() -> None:
    class Counting(Endings):
        made = 0

        def _text(self, session: Any) -> str:
            self.made += 1
            return super()._text(session)

    written: list[str] = []
    endings = Counting(Log("info", written.append), "info", lambda session: ("taken", {"endpoint": session.endpoint}), same=True)

    class Part:
        cluster = None
        env = listed = None
        grpc = 0

    def record(request: object, at: float = 0.0) -> tuple[Any, ...]:
        return (Part(), Part(), at, at, request, decision, "e", None, 1, 2, b"\r\n", 0)

    decision = Part()
    one, other = Part(), Part()
    endings.read([record(one), record(one, 1.5), record(other)])
    assert endings.made == 2
    for _ in range(3 * KEPT):
        endings.read([record(Part())])
    assert len(endings.known) <= KEPT
    endings.close()
    first, second, *_ = "".join(written).splitlines()
    assert first[24:] == second[24:] and first[:24] != second[:24]
