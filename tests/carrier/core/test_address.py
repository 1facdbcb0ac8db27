"""Whether the other host of a connection is there, as the kernel knows it."""

from __future__ import annotations

import pytest

from carrier.core.address import quiet_since


class Told:
    """A socket of which the kernel says this (struct tcp_info: state, congestion, sent again, probes)."""

    def __init__(self, info: bytes | None) -> None:
        self.info = info

    def getsockopt(self, *_: int) -> bytes:
        if self.info is None:
            raise OSError
        return self.info


@pytest.mark.parametrize(
    ("info", "since"), [(bytes([1, 0, 0, 0]), 0.0), (bytes([1, 4, 2, 0]), 5.0), (bytes([1, 0, 0, 3]), 5.0), (None, 0.0)]
)
def test_a_host_is_quiet_from_when_it_is_asked_in_vain(info: bytes | None, since: float) -> None:
    """Sent again twice; a closed window probed three times; no TCP."""
    assert quiet_since(Told(info), 0.0, 5.0) == since  # type: ignore[arg-type]
    assert quiet_since(Told(info), 3.0, 5.0) == (3.0 if since else 0.0)  # type: ignore[arg-type]
