"""How answers look: names of streams."""

from __future__ import annotations

from carrier.cli.page import stream


def test_a_stream_of_http_2_is_named_and_nothing_else() -> None:
    assert stream({"version": "2", "stream": 5}, " ") == " h2 #5" and stream({"version": "2"}, "") == "h2"
    assert stream({"version": "1.1"}, " ") == stream({}, " ") == ""
