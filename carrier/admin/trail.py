"""What was changed, when and by whom: the last revisions, and what was refused. `GET /audit` and `GET /revisions` show it.

`Trail` reads the process's log, whose lines about changes are the audit; whenever the configuration is another one by then, it keeps
that as well. Configurations are frozen and share what they have in common, so that a revision costs what it changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.config.inspector import SECTIONS
from carrier.log import rfc3339

if TYPE_CHECKING:
    from carrier.model import Config
    from carrier.proxy.proxy import Proxy

TOLD = ("started", "change", "reloaded", "bridge is over", "state", "the configuration file")
"""How lines of the log begin that tell of the configuration."""
ENTRIES = 256
REVISIONS = 20
OBJECTS = 100_000
"""Of all revisions that are kept; the present one is kept in any case."""
LONGEST = 2048
"""Characters of one value of an entry."""


class Trail:
    """See the module. proxy: has `config`."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.entries: deque[dict[str, Any]] = deque(maxlen=ENTRIES)
        self.kept: OrderedDict[int, Config] = OrderedDict()

    def logged(self, level: str, event: str, values: Mapping[str, object]) -> None:
        """A line of the process's log."""
        if not event.startswith(TOLD):
            return
        config = self.proxy.config
        if self.kept.get(config.revision) is not config:
            self.kept[config.revision] = config
            while len(self.kept) > REVISIONS or (len(self.kept) > 1 and sum(map(_objects, self.kept.values())) > OBJECTS):
                self.kept.popitem(last=False)
        said = {name: str(value)[:LONGEST] for name, value in values.items() if value is not None}
        self.entries.append(
            {"time": rfc3339(time.time()), "what": event, "refused": level != "notice", **said, "revision": config.revision}
        )

    def audit(self) -> list[dict[str, Any]]:
        """What was told, the latest first."""
        return list(reversed(self.entries))

    def revisions(self) -> list[int]:
        """Those that are kept, the latest first."""
        return list(reversed(self.kept))


def _objects(config: Config) -> int:
    return sum(len(getattr(config, section)) for section in (*SECTIONS, "bridges"))
