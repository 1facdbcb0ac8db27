"""Messages of the domain name system: what is asked, what is understood of answers, and that nothing that comes raises anything else."""

from __future__ import annotations

import random
import struct

import pytest

from carrier.wire.dns import AAAA, SRV, A, Bad, Service, answer, asked, question
from tests.nameserver import NameServer, encoded


def told(server: NameServer, name: str, kind: int) -> object:
    reply = server.answer(question(7, name, kind))
    assert reply is not None
    return answer(reply)


def test_a_question_has_the_name_the_kind_and_asks_for_recursion() -> None:
    message = question(0x1234, "A.Test", A)
    assert message == b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01A\x04Test\x00\x00\x01\x00\x01"
    assert asked(message) == "a.test"
    assert asked(question(1, "b\u00fccher.example.", A)) == "xn--bcher-kva.example"


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "a\0b", "\u00fc" * 70])
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(Bad):
        question(1, name, A)


def test_addresses_services_and_names_that_stand_for_others_are_read() -> None:
    server = NameServer(
        {
            ("a.test", "A"): ["1.2.3.4", "5.6.7.8"],
            ("a.test", "AAAA"): ["::1"],
            ("b.test", "CNAME"): ["c.test"],
            ("c.test", "CNAME"): ["a.test"],
            ("_x._tcp.test", "SRV"): [(1, 2, 3, "a.test")],
        }
    )
    assert told(server, "a.test", A) == (7, 0, False, "a.test", A, ("1.2.3.4", "5.6.7.8"), 60)
    assert told(server, "A.TEST", AAAA) == (7, 0, False, "a.test", AAAA, ("::1",), 60)
    assert told(server, "b.test", A) == (7, 0, False, "b.test", A, ("1.2.3.4", "5.6.7.8"), 60)
    assert told(server, "_x._tcp.test", SRV) == (7, 0, False, "_x._tcp.test", SRV, (Service(1, 2, 3, "a.test"),), 60)
    assert told(server, "no.test", A) == (7, 3, False, "no.test", A, (), 0)


def test_an_answer_is_good_for_as_long_as_its_shortest_record() -> None:
    """An alias good for a second, whose target is good for a day: whoever keeps it for a day does not notice that it moves."""
    alias, target = encoded("b.test"), encoded("a.test")
    data = struct.pack("!6H", 7, 0x8180, 1, 2, 0, 0) + alias + struct.pack("!2H", A, 1)
    data += b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 1, len(target)) + target
    data += target + struct.pack("!HHIH", A, 1, 86400, 4) + bytes([1, 2, 3, 4])
    assert (answer(data).found, answer(data).ttl) == (("1.2.3.4",), 1)


def test_an_alias_of_itself_ends() -> None:
    name = b"\x01a\x00"
    data = struct.pack("!6H", 1, 0x8180, 1, 1, 0, 0) + name + b"\x00\x01\x00\x01" + name + struct.pack("!HHIH", 5, 1, 9, 3) + name
    assert answer(data).found == ()


def test_how_long_there_is_nothing_is_what_the_zone_says() -> None:
    head = struct.pack("!6H", 1, 0x8183, 1, 0, 1, 0) + b"\x01a\x00\x00\x01\x00\x01"
    soa = b"\x00" + struct.pack("!HHIH", 6, 1, 900, 22) + b"\x00\x00" + struct.pack("!5I", 1, 2, 3, 4, 30)
    assert answer(head + soa).ttl == 30


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 12,
        struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01",  # a pointer to itself
        struct.pack("!6H", 1, 0x8180, 1, 1, 0, 0) + b"\x01a\x00\x00\x01\x00\x01" + b"\x00" + struct.pack("!HHIH", 1, 1, 9, 400),
        struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\x01a\x00\x00\x01\x00\x01",  # a question
        struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + b"\x3f" + b"a" * 10,
    ],
)
def test_what_is_no_answer_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(Bad):
        answer(data)


def test_damaged_answers_are_read_or_refused_and_nothing_else() -> None:
    server = NameServer({("a.test", "A"): ["1.2.3.4"] * 5, ("b.test", "CNAME"): ["a.test"]})
    good = server.answer(question(7, "b.test", A))
    assert good is not None
    dice = random.Random(1)
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(dice.randrange(1, 5)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            answer(bytes(data[: dice.randrange(len(data) + 1)]))
        except Bad:
            pass
