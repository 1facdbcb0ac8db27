"""The house in figures: rooms, arrows, circles, the longest chain of imports, the largest file, class Session.

    python docs/house.py [FOLDER]      of this tree, or of another one, as of a `git worktree` of an older commit

A room is a file or a folder directly in `carrier`, or one of the three packages of protocols; an arrow is an import from one room in
another, imports for typing alone included. Which way is up is read from the contract in pyproject.toml; a tree without one has no order.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("carrier", "listeners", "clusters", "transforms")
Arrows = Mapping[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Every module, by name; packages are no modules of their own."""
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py") if file.name != "__init__.py"]
    return {".".join(file.relative_to(root).with_suffix("").parts): file for file in files}


def imports(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of this tree that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in whole]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name in known)


def room_of(module: str) -> str:
    """The room that a module is in."""
    first, *rest = module.split(".")
    return rest[0] if first == "carrier" else first


def circles(arrows: Arrows) -> list[list[str]]:
    """Sets of names that reach each other (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            at = stack.index(name)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for name in arrows:
        if name not in number:
            visit(name)
    return [circle for circle in found if len(circle) > 1]


def longest(arrows: Arrows) -> int:
    """Names in the longest chain; a circle counts as one step."""
    whole = {name: circle[0] for circle in circles(arrows) for name in circle}
    below: dict[str, set[str]] = {}
    for name, others in arrows.items():
        mine = whole.get(name, name)
        below.setdefault(mine, set()).update({whole.get(other, other) for other in others} - {mine})
    depth: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((of(other) for other in below[name]), default=0)
        return depth[name]

    return max(map(of, below))


def order(root: Path) -> list[str]:
    """The rooms from the ground up, as the contract has them."""
    tool = tomllib.loads((root / "pyproject.toml").read_text()).get("tool", {}).get("importlinter", {})
    layers = next((contract["layers"] for contract in tool.get("contracts", ()) if contract["type"] == "layers"), [])
    return list(reversed(layers))


def session(known: Mapping[str, Path]) -> int:
    """Lines of class Session."""
    file = known.get("carrier.core.session") or known["carrier.session"]
    nodes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.name == "Session"]
    return (nodes[0].end_lineno or 0) - nodes[0].lineno + 1


def figures(root: Path) -> dict[str, object]:
    """What is printed."""
    known = modules(root)
    between = {name: set(imports(file, known)) - {name} for name, file in known.items()}
    rooms: dict[str, set[str]] = {}
    for name, others in between.items():
        rooms.setdefault(room_of(name), set()).update({room_of(other) for other in others} - {room_of(name)})
    floors = {room: floor for floor, room in enumerate(order(root))} | dict.fromkeys(PACKAGES[1:], 1000)
    up = [(a, b) for a, others in between.items() for b in others if floors.get(room_of(b), 0) > floors.get(room_of(a), 1000)]
    found = circles(between)
    lines = {name: len(file.read_text().splitlines()) for name, file in known.items()}
    largest = max(lines, key=lambda name: lines[name])
    return {
        "files": len(known),
        "lines": sum(lines.values()),
        "rooms": len(rooms),
        "arrows between rooms": sum(map(len, rooms.values())),
        "circles of files": f"{len(found)}, of {max(map(len, found), default=0)} files at most" if found else 0,
        "circles of rooms": len(circles(rooms)),
        "imports upwards": len(up) if order(root) else "no order",
        "longest chain of rooms": longest(rooms),
        "longest chain of files": longest(between),
        "largest file": f"{largest}, {lines[largest]} lines",
        "files above 500 lines": sum(count > 500 for count in lines.values()),
        "class Session": f"{session(known)} lines",
    }


if __name__ == "__main__":
    for what, figure in figures(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]).items():
        print(f"{what:24} {figure}")
