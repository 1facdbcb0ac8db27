"""The collector that spans are sent to: OTLP over HTTP (OpenTelemetry protocol specification, section "OTLP/HTTP"), one request at a time.

It is spoken to from a thread that may wait; `leaving` ends what waits there for another try.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from carrier.config.dump import version

if TYPE_CHECKING:
    from carrier.config.traces import Settings

BUSY = (429, 502, 503, 504)
"""Statuses of a collector that would take the same later."""
AGAIN = 0.5
"""Seconds until it is asked again, and then twice as many; unless it says when."""
LONGEST = 64 << 10
"""Bytes of its answer that are read."""
SHORTEST = 0.1
"""Seconds that each try has, at least."""


class _Stays(HTTPRedirectHandler):
    """What is sent goes to whom the configuration names, and nowhere else."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


class Collector:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fields = {"content-type": "application/x-protobuf", "user-agent": f"carrier2/{version()}", **settings.headers}
        self.opener = build_opener(_Stays)
        self.leaving = threading.Event()

    def take(self, body: bytes) -> None:
        """Send one export; a collector that is busy is asked again as long as `timeout` allows. Raises OSError with the reason."""
        end, pause = time.monotonic() + self.settings.timeout, AGAIN
        while True:
            left = max(SHORTEST, end - time.monotonic())
            try:
                with self.opener.open(Request(self.settings.url, body, self.fields, method="POST"), timeout=left) as answer:
                    answer.read(LONGEST)
                return
            except HTTPError as error:
                error.close()
                after = error.headers.get("retry-after") or ""
                wait = float(after) if after.isascii() and after.isdigit() else pause
                if error.code not in BUSY or time.monotonic() + wait > end or self.leaving.wait(wait):
                    raise OSError(f"the collector answers {error.code} {error.reason}") from None
                pause *= 2
            except URLError as error:
                raise OSError(f"the collector is not reached: {error.reason}") from None
