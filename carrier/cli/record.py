"""`carrier record`: what passes by a rule or a bridge, as an HTTP archive (HAR 1.2) that is whole at every moment.

Entries are written as they come, in front of the end of the file. When a file is full it is put aside as FILE.1, FILE.2 and so on, the
oldest goes, and a new one begins. A session that is open for long is written when it ends, or when we do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from carrier.cli.client import OK, Client, Dict
from carrier.cli.page import Page
from carrier.cli.tail import events

SIZE = 64 * 1024 * 1024
"""Bytes of a file."""
FILES = 4
OPEN = 1000
"""Open sessions that are remembered."""
END = b"\n]}}\n"


class Archive:
    """A file of entries; None: standard output, which is written once, at the end of each entry, and never rotates."""

    def __init__(self, path: Path | None, size: int = SIZE, files: int = FILES) -> None:
        self.path, self.size, self.files = path, size, files
        self.count = self.lost = 0
        self.out: IO[bytes] = self._begun()

    def _begun(self) -> IO[bytes]:
        from carrier.config.dump import version

        creator = json.dumps({"name": "carrier2", "version": version()}).encode()
        begin = b'{"log": {"version": "1.2", "creator": %b, "entries": [' % creator
        self.empty = True
        self.at = len(begin)
        if self.path is None:
            sys.stdout.buffer.write(begin)
            sys.stdout.buffer.flush()
            return sys.stdout.buffer
        # What people say to each other is nobody else's. The file is there when its beginning and its end are.
        part = f"{self.path}.part"
        out = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb", buffering=0)
        out.write(begin + END)
        os.replace(part, self.path)
        return out

    def add(self, entry: Dict) -> None:
        """One more."""
        data = (b"\n" if self.empty else b",\n") + json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if self.path is not None and not self.empty and self.at + len(data) > self.size:
            self._rotate()
            data = b"\n" + data.lstrip(b",\n")
        self.empty = False
        self.count += 1
        if self.path is not None:
            self.out.seek(self.at)
            self.out.write(data + END)
            self.at += len(data)
        else:
            self.out.write(data)
        self.out.flush()

    def _rotate(self) -> None:
        assert self.path is not None
        self.out.close()
        aside = [Path(f"{self.path}.{number}") for number in range(self.files - 1, 0, -1)]
        for to, one in zip(aside, [*aside[1:], self.path], strict=True) if aside else ():
            if one.exists():
                one.replace(to)
        self.out = self._begun()

    def close(self) -> None:
        """The end."""
        if self.path is None:
            self.out.write(END)
            self.out.flush()
        else:
            self.out.close()


def record(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Until the carrier ends, so many entries are there, or somebody presses ctrl-c."""
    if bool(options.bridge) == bool(options.rule):
        raise ValueError("one of --bridge NAME and --rule NAME is needed")
    query: dict[str, Any] = {"bridge": options.bridge} if options.bridge else {"rule": options.rule}
    if options.bodies is not None:
        query["bodies"] = options.bodies
    if options.secrets:
        query["secrets"] = "true"
    lines = client.lines(f"record?{urlencode(query)}")
    next(lines)  # what refuses it comes before any file is made
    archive = Archive(Path(options.out) if options.out else None, options.size, options.files)
    waiting: dict[str, Dict] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by timeout(1)
    try:
        for event in events(lines):
            _take(event, archive, waiting)
            if options.count and archive.count >= options.count:
                break
    except KeyboardInterrupt:
        pass
    finally:
        for entry in waiting.values():
            archive.add(entry)
        archive.close()
        signal.signal(signal.SIGTERM, before)
        lost = f", {archive.lost} lost because there were too many" if archive.lost else ""
        print(
            f"{archive.count} entr{'y' if archive.count == 1 else 'ies'}{f' in {options.out}' if options.out else ''}{lost}",
            file=sys.stderr,
        )
    return OK


def _take(event: Dict, archive: Archive, waiting: dict[str, Dict]) -> None:
    """An entry is written, or waits for its end."""
    if "entries" in event:
        archive.lost += event["entries"]
        return
    if "request" not in event:
        return
    ours = event["_carrier"]
    waiting.pop(ours["session"], None)
    if ours.get("open"):
        if len(waiting) < OPEN:
            waiting[ours["session"]] = event
        return
    archive.add(event)
    if archive.path is not None:
        status = event["response"]["status"] or ours.get("error") or "ended"
        print(f"{status} {event['request']['method']} {event['request']['url']}", file=sys.stderr)
