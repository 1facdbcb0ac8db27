"""`carrier top`: who gets how many requests, how many of them fail, and how slow the slowest hundredth is."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator

from carrier.cli.client import OK, Client, Refused
from carrier.cli.page import Page, complain, count, rate
from carrier.cli.rates import SORTS, Between, Look, Row, look

KEYS = {"r": "requests", "e": "errors", "p": "p99", "n": "name"}
"""Key -> what it sorts by; q ends."""


def top(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Draw again and again, on a terminal until q is pressed; once with `--once`."""
    before = look(client)
    with _keys(not options.once and page.terminal) as keys:
        while True:
            if not keys.wait(options.interval, options):
                return OK
            try:
                after = look(client)
            except Refused as error:
                if error.status or options.once:
                    raise
                complain(options, error)  # it may be starting again
                continue
            with page.screen(not (options.once or options.json)):
                _draw(options, Between(before, after), after, page)
            if options.once:
                return OK
            before = after


def _draw(options: argparse.Namespace, found: Between, now: Look, page: Page) -> None:
    by = SORTS[options.sort]
    tables = {"listeners": found.listeners(), "rules": found.rules(), "users": found.users_(), "endpoints": found.endpoints()}
    tables = {name: sorted(rows, key=by) for name, rows in tables.items()}  # type: ignore[arg-type]
    if options.json:
        shown = {name: [_plain(row) for row in rows] for name, rows in tables.items()}
        print(json.dumps({"seconds": round(found.seconds, 3), "all": _plain(found.all()), **shown}, ensure_ascii=False), flush=True)
        return
    status, whole = now.status, found.all()
    print(f"carrier {status['version']}, {status['state']}, revision {status['revision']}, {count(status['sessions'], 'session')}")
    print(f"{page.paint('1', rate(whole.requests))} requests/s, {_share(whole, page)} errors, p99 {_time(whole.p99)}")
    hint = "; keys: r e p n sort, q ends" if page.terminal and not options.once else ""
    print(f"in the last {found.seconds:.1f} s, by {options.sort}{hint}")
    most = options.rows or _room(page, options.once)
    for title, about, name in (("rule", "user", "rules"), ("user", "", "users"), ("endpoint", "cluster", "endpoints")):
        rows = tables[name]
        if not rows:
            continue
        print()
        heading = (title, *((about,) if about else ()), "requests/s", "errors/s", "errors", "p99")
        page.table(heading, [_cells(row, bool(about), page) for row in rows[:most]])
        if len(rows) > most:
            print(f"and {len(rows) - most} more (--rows)")
    sys.stdout.flush()


def _cells(row: Row, has_about: bool, page: Page) -> tuple[object, ...]:
    about = (row.about,) if has_about else ()
    return (row.name, *about, rate(row.requests), rate(row.errors), f"{100 * row.share:.1f} %", _time(row.p99))


def _plain(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "about": row.about,
        "requests_per_second": round(row.requests, 3),
        "errors_per_second": round(row.errors, 3),
        "p99_seconds": row.p99 if row.p99 is None else round(row.p99, 6),
    }


def _room(page: Page, once: bool) -> int:
    """Rows that a table may have so that all of them are seen."""
    return 20 if once or not page.terminal else max(3, (shutil.get_terminal_size().lines - 12) // 3)


def _share(row: Row, page: Page) -> str:
    return page.paint("31" if row.share > 0.05 else "33" if row.errors else "32", f"{100 * row.share:.1f} %")


def _time(seconds: float | None) -> str:
    """In three digits."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


class _Keys:
    """The keyboard, if there is one: what is pressed is heard at once and not shown."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def wait(self, seconds: float, options: argparse.Namespace) -> bool:
        """Until so many seconds are over, or a key has changed what is wanted. False: it is to end."""
        if self.descriptor is None:
            time.sleep(seconds)
            return True
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.descriptor], [], [], left)[0]:
                break
            pressed = os.read(self.descriptor, 1).decode("latin-1").lower()
            if pressed in ("q", "\x04", ""):
                return False
            options.sort = KEYS.get(pressed, options.sort)
        return True


@contextlib.contextmanager
def _keys(wanted: bool) -> Iterator[_Keys]:
    if not wanted or not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
