"""`make lock`: the versions of what the program needs to run, with HTTP/3, and of nothing else: constraints for the image (deploy/image).

Printed from what is installed here, by following the requirements of the distribution `carrier2`.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution


def needed(root: str = "carrier2", extras: tuple[str, ...] = ("h3",)) -> dict[str, str]:
    """Name -> version of all that `root` needs, directly or not."""
    found: dict[str, str] = {}
    waiting = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in distribution(name).requires or ():
            asked = re.match(r"[\w.-]+", requirement)
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
            if asked is None or (extra is not None and extra[1] not in wanted) or asked[0].lower() in found:
                continue
            try:
                found[asked[0].lower()] = distribution(asked[0]).version
            except PackageNotFoundError:  # for another platform, or another Python
                continue
            waiting.append((asked[0], ()))
    return found


def main() -> None:
    print("# What the image has, at the versions that the checks run with: written by `make lock`.")
    for name, version in sorted(needed().items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
