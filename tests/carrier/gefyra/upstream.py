"""Stand-ins for the modules of Gefyra's operator and of kopf that our providers are registered with: abstract classes, enums, factories.

Their methods, parameters and enums are those that were recorded of operator 2.5.4; test_provider.py holds them to the record.
"""

from __future__ import annotations

import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

METHODS = {
    "bridge": ("install", "installed", "ready", "uninstall", "add_proxy_route", "remove_proxy_route", "proxy_route_exists", "validate"),
    "bridge_mount": ("install", "prepare", "ready", "prepared", "uninstall", "target_exists", "validate"),
}
CLASSES = {"bridge": "AbstractGefyraBridgeProvider", "bridge_mount": "AbstractGefyraBridgeMountProvider"}
TYPES = {"bridge": ("BridgeProviderType", {"CARRIER2": "carrier2"})}
TYPES["bridge_mount"] = ("BridgeMountProviderType", {"CARRIER2MOUNT": "carrier2mount"})


class TemporaryError(Exception):
    """kopf's: the handler is called again, `delay` seconds later."""

    def __init__(self, text: str = "", delay: float = 60) -> None:
        super().__init__(text)
        self.delay = delay


class AdmissionError(Exception):
    """kopf's: the request is refused."""


class Factory:
    """One of the operator's: a builder for each type of provider. That of bridges is awaited, that of mounts is not."""

    def __init__(self) -> None:
        self.builders: dict[Any, Any] = {}

    def register_builder(self, provider_type: Any, builder: Any) -> None:
        self.builders[provider_type] = builder

    def get(self, provider_type: Any, **arguments: Any) -> Any:
        return self.builders[provider_type](**arguments)


@contextmanager
def standing_in() -> Iterator[dict[str, Factory]]:
    """Importable as long as the context lasts, with `carrier.gefyra.operator` imported anew; gives the factories."""
    made: dict[str, types.ModuleType] = {}

    def module(name: str, **members: Any) -> None:
        made[name] = types.ModuleType(name)
        made[name].__dict__.update(members)

    factories = {kind: Factory() for kind in METHODS}
    module("gefyra")
    module("kopf", TemporaryError=TemporaryError, AdmissionError=AdmissionError)
    for kind, methods in METHODS.items():
        module(f"gefyra.{kind}")
        name = CLASSES[kind]
        module(f"gefyra.{kind}.abstract", **{name: type(name, (ABC,), {one: abstractmethod(lambda self: None) for one in methods})})
        enum, members = TYPES[kind]
        module(f"gefyra.{kind}.factory", **{enum: Enum(enum, members), f"{kind}_provider_factory": factories[kind]})
    ours = "carrier.gefyra.operator"
    before = {name: sys.modules.pop(name, None) for name in (*made, ours)}
    sys.modules.update(made)
    try:
        yield factories
    finally:
        for name, old in before.items():
            sys.modules.pop(name, None)
            if old is not None:
                sys.modules[name] = old
