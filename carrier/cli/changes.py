"""`carrier apply`, `dump` and `diff`: the whole configuration of a running carrier. What is different, or was changed, is told in words."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from carrier.cli.client import FAILED, OK, Client, Dict, Refused
from carrier.cli.labels import labels
from carrier.cli.page import Page, count, done, show

SIGNS = (("added", "+"), ("changed", "~"), ("removed", "-"))


def _kind(text: str) -> str:
    return "application/json" if re.match(r"\s*[\[{]", text) else "application/yaml"


def apply(options: argparse.Namespace, client: Client, page: Page) -> int:
    options.text = text = read(options.file)
    found = validated(client, text, "?allowDangling=true" if options.allow_dangling else "")
    if not found["valid"]:
        raise Refused(400, found["problems"])
    _warn(found)
    changes = summary(found["changes"])
    if options.dry_run:
        return done(options, found, f"it would change: {changes}" if changes else "it would change nothing")
    path = "config" + ("?allowDangling=true" if options.allow_dangling else "")
    answer = client.call("POST", path, text.encode(), _kind(text))
    return done(options, answer, f"revision {client.revision}: {changes or 'nothing changed'}")


def validated(client: Client, text: str, query: str = "") -> Dict:
    """What POST /validate says of a file. One that is malformed is refused with its line, as `carrier check` does it. Raises Refused."""
    try:
        found: Dict = client.call("POST", f"validate{query}", text.encode(), _kind(text))
    except Refused as refused:
        if refused.status == 400 and (problems := _malformed(text)):
            raise Refused(400, problems) from None
        raise
    return found


def _warn(found: Dict) -> None:
    """What is odd about a file, and the user bridges that do not fit into it."""
    for warning in found["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def _malformed(text: str) -> list[Dict]:
    import msgspec

    from carrier.config.source import decode
    from carrier.errors import ConfigError

    try:
        decode(text, None, len(text))
    except ConfigError as error:
        return [msgspec.to_builtins(problem) for problem in error.problems]
    return []


def summary(changes: Mapping[str, Mapping[str, list[str]]]) -> str:
    """ "+1 listener, 2 rules changed"; "" when nothing is."""
    words = []
    for section, change in changes.items():
        noun = "rule list" if section == "rulelists" else section.removesuffix("s")
        for what, sign in SIGNS:
            if names := change.get(what):
                words.append(f"{count(len(names), noun)} changed" if what == "changed" else f"{sign}{count(len(names), noun)}")
    return ", ".join(words)


def read(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")


def dump(options: argparse.Namespace, client: Client, page: Page) -> int:
    document = client.call("GET", "config?document=true")
    if not show(options, document):
        print(_yaml(document), end="")
    return OK


def _yaml(document: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(document))  # what is shared is written out each time: YAML would make aliases of it
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True))


def diff(options: argparse.Namespace, client: Client, page: Page) -> int:
    """What `apply FILE` would change, field by field; 0 when nothing, 1 otherwise, as diff(1) does."""
    options.text = text = read(options.file)
    found = validated(client, text)
    if not found["valid"]:
        raise Refused(400, found["problems"])
    _warn(found)
    changes = found["changes"]
    if show(options, changes) or not changes:
        return FAILED if changes else OK
    from carrier.config.document import to_document
    from carrier.config.source import loads
    from carrier.config.traces import veiled

    there, here = client.call("GET", "config?document=true"), veiled(to_document(loads(text, allow_dangling=True).config))
    named = labels(client.call("GET", "status"))
    for section, change in changes.items():
        for what, sign, colour in (("removed", "-", "31"), ("changed", "~", "33"), ("added", "+", "32")):
            for name in change.get(what, ()):
                label = f"  ({named[name]})" if named.get(name, name) != name else ""
                print(page.paint(colour, f"{sign} {section}/{name}") + label)
                for line in differences(_named(there, section, name), _named(here, section, name)) if what == "changed" else ():
                    print(f"    {line}")
    if options.lines:
        _show_lines(there, here, page)
    return FAILED


def _named(document: Any, section: str, name: str) -> Any:
    """The object of this name, wherever in the document it stands; None: it has no name there."""
    if isinstance(document, Mapping):
        for item in document.get(section) or ():
            if isinstance(item, Mapping) and item.get("name") == name:
                return item
    for item in document.values() if isinstance(document, Mapping) else document if isinstance(document, list) else ():
        if isinstance(item, Mapping) and item.get("name") == name and _is(item, section):
            return item
        if isinstance(item, (Mapping, list)) and (found := _named(item, section, name)) is not None:
            return found
    return None


def _is(item: Mapping[str, Any], section: str) -> bool:
    """Is this an object of the section, by the field that only such have?"""
    own = {"listeners": "rules", "clusters": "spec", "rulelists": "rules", "rules": "action", "routes": "destination"}[section]
    return own in item


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Field by field: `spec.port: 8080 -> 8081`. Lists are compared item by item."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            at = f"{path}.{name}" if path else str(name)
            if name not in new:
                yield f"{at}: {_short(old[name])} is gone"
            elif name not in old:
                yield f"{at}: {_short(new[name])} is new"
            else:
                yield from differences(old[name], new[name], at)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _show_lines(there: Dict, here: Dict, page: Page) -> None:
    """The two configurations line by line, both as `carrier dump` writes them."""
    import difflib

    before, after = _yaml(there | {"admin": {}}), _yaml(here | {"admin": {}})
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), "in force", "file", lineterm=""):
        print(page.paint({"+": "32", "-": "31"}.get(line[:1], "0"), line))
