"""Huffman strings (RFC 7541 section 5.2), with the hpack package as the reference."""

from __future__ import annotations

import random

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from carrier.wire.h2 import huffman
from carrier.wire.h2.frames import Fault
from carrier.wire.h2.huffman import unhuffman

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def test_what_the_reference_encodes_is_decoded():
    chance = random.Random(7541)
    for size in (0, 1, 2, 7, 40, 300):
        for _ in range(5):
            text = bytes(chance.randrange(256) for _ in range(size))
            assert unhuffman(ENCODER.encode(text)) == text
    assert unhuffman(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"


@pytest.mark.parametrize("wrong", ["1fff", "ff", "1e", "fffffffc", "ffffffff"])
def test_a_padding_that_is_none_and_eos_are_refused(wrong):
    with pytest.raises(Fault):
        unhuffman(bytes.fromhex(wrong))


def test_short_strings_are_remembered_up_to_a_bound():
    for number in range(huffman._STRINGS + 10):
        unhuffman(ENCODER.encode(b"%d" % number))
    assert len(huffman._strings) <= huffman._STRINGS
    long = ENCODER.encode(b"v" * 400)
    assert unhuffman(long) == b"v" * 400 and long not in huffman._strings
