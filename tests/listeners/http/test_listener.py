"""The HTTP listener apart from its connections: its options."""

from __future__ import annotations

from listeners.http.listener import HttpListener


def test_options_are_checked() -> None:
    assert (
        HttpListener.check_options(
            {"max_head": 1000, "trusted": ["10.0.0.0/8"], "via": "edge", "forwarded": True, "half_close": "keep"}, "o"
        )
        == []
    )
    for bad in ({"max_head": -1}, {"idle": 3}, {"trusted": ["300.0.0.0/8"]}, {"trusted": "all"}, {"via": "a b"}, {"half_close": "no"}):
        (problem,) = HttpListener.check_options(bad, "o")
        assert problem.path.startswith("o.")
