"""The ring, and the backlog that stands in it while there is no destination."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.core.stream import MANY, NOWHERE, Backlog, Socket, Stream, link
from carrier.errors import Error


class End(Socket):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def head(self, head: Any, last: bool = False) -> None:
        self.heard.append(("head", head, last))

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.heard.append(data)

    def end(self, trailer: Any = None) -> None:
        self.heard.append("end")

    def reset(self, error: Error) -> None:
        self.heard.append(("reset", error.kind))

    def flush(self) -> None:
        self.heard.append("flush")

    def pause(self) -> None:
        self.heard.append("pause")

    def resume(self) -> None:
        self.heard.append("resume")

    def stop(self, error: Error | None = None) -> None:
        self.heard.append("stop")


def held(limit: int = 10, datagram: bool = False) -> tuple[End, Backlog]:
    source, backlog = End(), Backlog(limit, datagram)
    source.to, backlog.back = backlog, source
    return source, backlog


def test_a_plain_stream_as_destination_is_an_echo() -> None:
    source, destination = End(), Stream()
    link([source, destination])
    source.to.head("h", True)
    source.to.data(b"x")
    source.to.flush()
    source.to.end()
    source.to.reset(Error("closed"))
    assert source.heard == [("head", "h", True), b"x", "flush", "end", ("reset", "closed")]


def test_forward_calls_travel_along_to_and_backward_calls_along_back_in_the_order_of_the_chain() -> None:
    source, a, b, destination, c = End(), Stream(), Stream(), End(), Stream()
    link([source, a, b, destination, c])
    assert [source.to, a.to, b.to, destination.to, c.to] == [a, b, destination, c, source]
    source.to.data(b"down")
    destination.to.data(b"up")
    destination.back.pause()
    source.back.resume()
    assert destination.heard == [b"down", "resume"]
    assert source.heard == [b"up", "pause"]


def test_calls_on_an_unlinked_hop_are_harmless() -> None:
    hop = Stream()
    assert hop.to is NOWHERE
    hop.data(b"x")
    hop.head(None)
    hop.end()
    hop.reset(Error("closed"))
    hop.flush()
    hop.pause()
    hop.resume()
    hop.stop()


def test_a_socket_that_cannot_hand_out_its_descriptor_says_so() -> None:
    with pytest.raises(Error, match="End cannot hand out"):
        End().takeover()


def test_a_backlog_plays_everything_in_order_and_steps_out_of_the_ring() -> None:
    source, backlog = held(100)
    backlog.head("h")
    backlog.data(b"1")
    backlog.data(b"2", None, True)
    backlog.end()
    target = End()
    backlog.replay(target)
    assert target.heard == [("head", "h", False), b"1", b"2", "end", "flush"]
    assert source.to is target and target.back is source
    assert source.heard == ["resume"]


def test_a_byte_stream_is_paused_at_the_limit_and_again_when_somebody_resumed_it() -> None:
    source, backlog = held(10)
    backlog.data(b"x" * 9)
    assert source.heard == []
    backlog.data(b"x")
    assert source.heard == ["pause"]
    backlog.data(b"x")
    assert source.heard == ["pause", "pause"]


def test_messages_without_bytes_are_bounded_too() -> None:
    source, backlog = held()
    for _ in range(MANY):
        backlog.data(b"")
    assert source.heard == ["pause"]
    _, datagrams = held(datagram=True)
    for _ in range(MANY + 5):
        datagrams.data(b"")
    assert (len(datagrams.calls), datagrams.dropped) == (MANY, 5)


def test_datagrams_beyond_the_limit_are_dropped_and_counted_and_nothing_is_paused() -> None:
    source, backlog = held(10, datagram=True)
    for _ in range(5):
        backlog.data(b"12345")
    assert (len(backlog.calls), backlog.dropped, source.heard) == (2, 3, [])


def test_a_reset_replaces_what_was_held() -> None:
    _, backlog = held()
    backlog.data(b"x")
    backlog.reset(Error("reset"))
    target = End()
    backlog.replay(target)
    assert target.heard == [("reset", "reset"), "flush"]


def test_a_source_stays_paused_when_the_destination_is_full_from_what_was_held() -> None:
    class Full(End):
        def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
            super().data(data)
            self.back.pause()

    source, backlog = held()
    backlog.data(b"x" * 10)
    source.heard.clear()
    target = Full()
    backlog.replay(target)
    assert source.heard == ["pause"]
    target.back.resume()
    assert source.heard == ["pause", "resume"]


def test_what_comes_while_the_backlog_is_played_keeps_its_place() -> None:
    class Greedy(End):
        def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
            super().data(data)
            if data == b"1":
                source.to.data(b"3")

    source, backlog = held()
    backlog.data(b"1")
    backlog.data(b"2")
    target = Greedy()
    backlog.replay(target)
    assert target.heard == [b"1", b"2", b"3", "flush"]


def test_a_destination_that_is_replaced_while_it_is_played_to_leaves_the_rest_to_the_next_backlog() -> None:
    class Broken(End):
        def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
            super().data(data)
            source.to, second.back = second, source

    source, backlog = held()
    second = Backlog()
    for data in (b"1", b"2", b"3"):
        backlog.data(data)
    target = Broken()
    backlog.replay(target)
    assert target.heard == [b"1"]
    assert [args[0] for _, args in second.calls] == [b"2", b"3"]
    assert source.to is second


def test_a_stop_empties_the_backlog_and_travels_back() -> None:
    source, backlog = held()
    backlog.data(b"x")
    backlog.stop()
    assert not backlog.calls
    assert source.heard == ["stop"]
