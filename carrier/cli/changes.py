"""`carrier apply`, `dump` and `diff`: the whole configuration of a running carrier."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carrier.cli.client import FAILED, OK, Client, Refused
from carrier.cli.page import Page, done, show


def _kind(text: str) -> str:
    return "application/json" if re.match(r"\s*[\[{]", text) else "application/yaml"


def apply(options: argparse.Namespace, client: Client, page: Page) -> int:
    text = read(options.file)
    path = "config?" + "&".join(
        f"{name}=true" for name, wanted in (("dryRun", options.dry_run), ("allowDangling", options.allow_dangling)) if wanted
    )
    answer = client.call("POST", path.rstrip("?"), text.encode(), _kind(text))
    return done(options, answer, "it would be put in force" if options.dry_run else "it is in force")


def read(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")


def dump(options: argparse.Namespace, client: Client, page: Page) -> int:
    document = client.call("GET", "config?document=true")
    if not show(options, document):
        print(yaml(document), end="")
    return OK


def yaml(document: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(document))  # what is shared is written out each time: YAML would make aliases of it
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True))


def diff(options: argparse.Namespace, client: Client, page: Page) -> int:
    """What `apply FILE` would change; 0 when nothing, 1 otherwise, as diff(1) does."""
    text = read(options.file)
    found = client.call("POST", "validate", text.encode(), _kind(text))
    if not found["valid"]:
        raise Refused(400, found["problems"])
    if show(options, found["changes"]):
        return FAILED if found["changes"] else OK
    for section, change in found["changes"].items():
        for what, mark, colour in (("removed", "-", "31"), ("changed", "~", "33"), ("added", "+", "32")):
            for name in change.get(what, ()):
                print(page.paint(colour, f"{mark} {section}/{name}"))
    if found["changes"] and options.lines:
        _show_lines(client, text, page)
    return FAILED if found["changes"] else OK


def _show_lines(client: Client, text: str, page: Page) -> None:
    """The two configurations line by line, both as `carrier dump` writes them."""
    import difflib

    from carrier.config.document import to_document
    from carrier.config.source import loads

    here = yaml(to_document(loads(text, allow_dangling=True).config) | {"admin": {}})
    there = yaml(client.call("GET", "config?document=true") | {"admin": {}})
    lines: Iterator[str] = difflib.unified_diff(there.splitlines(), here.splitlines(), "in force", "file", lineterm="")
    for line in lines:
        print(page.paint({"+": "32", "-": "31"}.get(line[:1], "0"), line))
