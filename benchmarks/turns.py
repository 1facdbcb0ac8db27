"""A carrier that measures the turns of its event loop: `python -m benchmarks.turns FILE run -c ...`.

A callback of each turn asks for the next, so the process never rests: what it costs is measured without this. At SIGUSR2 the longest turn
since the last one, in seconds of the loop's own thread, is written to FILE.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from carrier.cli import main as command
from carrier.process import serve


class Turns:
    """longest: seconds of processor time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: str) -> None:
        self.loop = loop
        self.file = file
        self.at = time.thread_time()
        self.longest = 0.0
        loop.add_signal_handler(signal.SIGUSR2, self.tell)
        loop.call_soon(self.turn)

    def turn(self) -> None:
        """Called once in each turn."""
        now = time.thread_time()
        self.longest = max(self.longest, now - self.at)
        self.at = now
        self.loop.call_soon(self.turn)

    def tell(self) -> None:
        """Write what was seen and begin anew."""
        with open(f"{self.file}.new", "w") as file:
            file.write(str(self.longest))
        os.replace(f"{self.file}.new", self.file)
        self.longest = 0.0


def main(argv: list[str]) -> int:
    """Run a carrier."""
    start = serve.start

    async def measured(*args: object) -> serve.Server:
        server = await start(*args)  # type: ignore[arg-type]
        Turns(server.env.loop, argv[0])
        return server

    serve.start = measured  # type: ignore[assignment]
    return command.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
