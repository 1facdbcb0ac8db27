"""Our HTTP/2 engine and hyper-h2 talk: whatever the windows, the pauses and the cuts, all content arrives, and h2 objects to nothing.

Streams that have ended are used again for those that follow, as their owners do."""

from __future__ import annotations

import random

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, SettingsAcknowledged, StreamEnded, TrailersReceived
from h2.settings import SettingCodes

from carrier.wire.h2 import Engine, Limits, Memo, Section, Stream, encode
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.heads import framed_answer
from carrier.wire.http import LENGTH, Head

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.example")]
ANSWER = [(b":status", b"200"), (b"content-type", b"text/plain")]
TRAILERS = [(b"x-sum", b"1")]
CLIENT_STREAMS, AT_ONCE = 18, 6


class Ours:
    """Our side: as a server it sends everything back, with its own length of content; sometimes it pauses what comes."""

    def __init__(self, chance: random.Random, client: bool) -> None:
        self.chance = chance
        limits = Limits(window=chance.choice((65535, 1 << 20)), connection_window=chance.choice((65535, 1 << 20)), streams=50)
        self.engine = Engine(self, Memo(limits, client), limits, client=client)
        self.got: dict[int, bytes] = {}
        self.over: set[int] = set()
        self.drained = 0
        self.paused: list[Stream] = []
        self.all: list[Stream] = []
        self.used = 0

    def spare(self) -> list[Stream]:
        """Streams that both sides have ended, for use again; they are forgotten here."""
        found = [s for s in self.all if s.ended and s.over and s.held is None and s.id not in self.engine.streams]
        self.all = [stream for stream in self.all if stream not in found]
        self.paused = [stream for stream in self.paused if stream not in found]
        for stream in found:
            stream.owner = "used before"
        return found

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        self.got.setdefault(stream.id, b"")
        if not self.engine.client:
            self.used += stream.owner == "used before"
            self.all.append(stream)
        if last:
            self._over(stream)

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        self.got[stream.id] += data
        if last:
            self._over(stream)
        elif self.chance.random() < 0.2:
            stream.pause()
            self.paused.append(stream)

    def on_trailers(self, stream: Stream, section: Section) -> None:
        assert section.fields == tuple(TRAILERS)
        self._over(stream)

    def _over(self, stream: Stream) -> None:
        self.over.add(stream.id)
        if not self.engine.client:
            speak(self.chance, stream, encode(ANSWER), self.got[stream.id] * 2)

    def on_drained(self, stream: Stream) -> None:
        self.drained += 1

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        raise AssertionError((stream, code, detail))

    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None:
        raise AssertionError((kind, detail))

    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


def speak(chance: random.Random, stream: Stream, block: bytes, content: bytes) -> None:
    """A head, the content in pieces, and an end of one kind or another."""
    kind = chance.randrange(5)
    if kind == 3 and content:
        head = Head(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", status=200, body=LENGTH, length=len(content))
        framed = framed_answer(head, Encoder())
        if framed is not None and stream.send_framed(framed, content):
            return
    if kind == 4 and stream.send_call(block, content, encode(TRAILERS)):
        return
    if kind in (0, 3, 4):
        stream.send_message(block, content)
        return
    cut = chance.randrange(len(content) + 1)
    stream.send_head(block)
    stream.send_data(content[:cut])
    stream.send_data(content[cut:], kind == 1)
    if kind == 2:
        stream.send_trailers(encode(TRAILERS))


class Theirs:
    """h2: sends what its windows let it, gives windows back late, changes its settings when it likes."""

    def __init__(self, chance: random.Random, client: bool) -> None:
        self.chance, self.client = chance, client
        self.connection = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.connection.initiate_connection()
        self.unacknowledged = 1
        self.got: dict[int, bytes] = {}
        self.over: set[int] = set()
        self.to_send: dict[int, bytes] = {}
        self.owed: list[tuple[int, int]] = []

    def change(self) -> None:
        """One at a time: h2 takes an acknowledgement for that of the next change, if there is one. Not the size of frames: those that come
        in one read with the acknowledgement are still measured by what held before."""
        if self.unacknowledged:
            return
        self.unacknowledged += 1
        chance = self.chance
        self.connection.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: chance.choice((1, 100, 5000, 65535, 1 << 20)),
                SettingCodes.HEADER_TABLE_SIZE: chance.choice((0, 100, 4096)),
            }
        )

    def hears(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, RequestReceived | ResponseReceived):
                self.got[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.got[event.stream_id] += event.data
                self.owed.append((event.flow_controlled_length, event.stream_id))
            elif isinstance(event, TrailersReceived):
                assert [tuple(pair) for pair in event.headers] == TRAILERS
            elif isinstance(event, SettingsAcknowledged):
                self.unacknowledged -= 1
            elif isinstance(event, StreamEnded):
                number = event.stream_id
                self.over.add(number)
                if not self.client:
                    self.connection.send_headers(number, ANSWER)
                    self.to_send[number] = self.got[number] * 2

    def acts(self) -> None:
        """Something of what may be done now."""
        chance, connection = self.chance, self.connection
        if self.owed and chance.random() < 0.8:
            for size, number in self.owed:
                if not size:
                    continue
                stream = connection.streams.get(number)
                if stream is None or stream.closed:
                    connection.increment_flow_control_window(size)
                else:
                    connection.acknowledge_received_data(size, number)
                    if chance.random() < 0.5:
                        connection.increment_flow_control_window(chance.randrange(1, 5000), number)
            self.owed.clear()
        for number, rest in list(self.to_send.items()):
            n = min(len(rest), connection.local_flow_control_window(number), connection.max_outbound_frame_size, chance.randrange(1, 9000))
            if rest and n <= 0:
                continue
            last = n >= len(rest)
            connection.send_data(number, rest[:n], end_stream=last)
            self.to_send[number] = rest[n:]
            if last:
                del self.to_send[number]
        if chance.random() < 0.3:
            self.change()
        if chance.random() < 0.1:
            connection.ping(b"12345678")


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("seed", range(25))
def test_all_content_arrives(seed, client):
    chance = random.Random(seed)
    ours, theirs = Ours(chance, client), Theirs(chance, not client)
    sent: dict[int, bytes] = {}
    spare: list[Stream] = []

    def begin() -> None:
        content = bytes(chance.randrange(256) for _ in range(64)) * chance.choice((0, 1, 50, 2000))
        if client:
            used = spare.pop() if spare else None
            ours.used += used is not None
            stream = ours.engine.request(encode(REQUEST), used=used)
            ours.all.append(stream)
            cut = chance.randrange(len(content) + 1)
            stream.send_data(content[:cut])
            stream.send_data(content[cut:], True)
            sent[stream.id] = content
        else:
            number = 2 * len(sent) + 1
            theirs.connection.send_headers(number, REQUEST)
            theirs.to_send[number] = content
            sent[number] = content

    for _ in range(AT_ONCE):
        begin()
    done = theirs.over if not client else ours.over
    for _ in range(20_000):
        wire = ours.engine.take()
        while wire:
            n = chance.randrange(1, len(wire) + 1)
            theirs.hears(wire[:n])
            wire = wire[n:]
        theirs.acts()
        wire = theirs.connection.data_to_send() or b""
        while wire:
            n = chance.randrange(1, len(wire) + 1)
            piece, wire = wire[:n], wire[n:]
            while ours.engine.feed(piece, 0.0):
                piece = b""
        if chance.random() < 0.3:
            for stream in ours.paused:
                stream.resume()
            ours.paused.clear()
        (spare if client else ours.engine.spare).extend(ours.spare())
        while len(sent) < min(CLIENT_STREAMS, len(done) + AT_ONCE):
            begin()
        if len(done) == CLIENT_STREAMS and not theirs.to_send and not ours.engine.waiting:
            break
    assert ours.engine.failure is None
    answers = ours.got if client else theirs.got
    asked = theirs.got if client else ours.got
    assert asked == sent
    assert answers == {number: content * 2 for number, content in sent.items()}
    assert ours.engine.streams == {} and ours.engine.waiting == {}
    assert ours.used or not client  # a server uses none again while windows are small
