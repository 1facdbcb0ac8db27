"""`carrier demo`: the main job, seen in a minute, in one process, on real sockets.

A shadow workload (HTTP and gRPC, and echoes of TCP and UDP), the laptops of john and jane, Carrier2 in front of them with its REST API, all
on free ports of the loopback interface (demo_stage.py). `Story` plays what happens in a shared cluster, one claim a line with the rule that
decided, and checks each claim against what came over the wire; bridges are made with the calls that a user would make. Then light traffic
goes on until a signal comes; with `--once` the process ends instead, 0 when every claim held, 1 otherwise.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from itertools import count
from typing import Any, TextIO

import h11
import uvloop

from carrier.cli.demo_asking import ask
from carrier.cli.demo_page import Page
from carrier.cli.demo_stage import Stage
from carrier.cli.demo_story import Story
from carrier.process.serve import Signals


def main(once: bool = False, out: TextIO | None = None) -> int:
    """Play the demo; returns its exit status. out: where the story goes (standard output)."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(once, Page(out or sys.stdout)))


async def _main(once: bool, page: Page) -> int:
    signals = Signals()
    stage = Stage()
    try:
        await stage.set_up()
        page.cast(stage)
        story = Story(stage, page)
        telling = asyncio.ensure_future(story.tell())
        signal = asyncio.ensure_future(signals.next())
        await asyncio.wait([telling, signal], return_when=asyncio.FIRST_COMPLETED)
        if signal.done():
            telling.cancel()
            return 1 if once else 0
        await telling
        page.end(story.held)
        if not once:
            page.invite(stage)
            traffic = asyncio.ensure_future(_light_traffic(stage, page))
            await signal
            traffic.cancel()
        signal.cancel()
        return 0 if all(story.held) else 1
    finally:
        signals.close()
        await stage.tear_down()


async def _light_traffic(stage: Stage, page: Page) -> None:
    """Two requests a second, so that there is something to see in the API."""
    answered: Counter[str] = Counter()
    for user in _in_turn("nobody", "john", "jane"):
        try:
            reply = await ask(stage.web, "GET", "/cart/7", {"x-user": user})
            answered[reply.who] += 1
        except (OSError, h11.ProtocolError):
            answered["nobody: failed"] += 1
        page.tally(answered)
        await asyncio.sleep(0.5)


def _in_turn(*users: str) -> Any:
    return (users[i % len(users)] for i in count())
