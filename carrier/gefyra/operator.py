"""One import in Gefyra's operator puts our providers in place of its own: `import carrier.gefyra.operator`.

This is the only file that imports Gefyra and kopf. It makes classes of ours that are also the operator's abstract ones, with the
signatures that its builders have, and registers builders for them over `BridgeProviderType.CARRIER2` and
`BridgeMountProviderType.CARRIER2MOUNT`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kopf
from gefyra.bridge.abstract import AbstractGefyraBridgeProvider
from gefyra.bridge.factory import BridgeProviderType, bridge_provider_factory
from gefyra.bridge_mount.abstract import AbstractGefyraBridgeMountProvider
from gefyra.bridge_mount.factory import BridgeMountProviderType, bridge_mount_provider_factory

from carrier.gefyra.keeper import Keeper
from carrier.gefyra.known import Known
from carrier.gefyra.kubernetes import KubernetesAccess
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.provider import CarrierProvider
from carrier.gefyra.wanted import Event, Failures

if TYPE_CHECKING:
    from carrier.gefyra.access import Access

RETRY = 2
"""Seconds after which the operator asks again when something is not there yet."""


class Refused(kopf.AdmissionError, ValueError):  # type: ignore[misc]
    """What is not allowed: admission answers with it, and the mount's state machine takes a ValueError for the reason of an ERROR."""


def failures() -> Failures:
    """The exceptions that the operator's handlers understand."""
    return Failures(lambda text: kopf.TemporaryError(text, delay=RETRY), Refused)


class Provider(CarrierProvider, AbstractGefyraBridgeProvider):  # type: ignore[misc]
    """Our bridge provider as one of the operator's."""


class Mount(CarrierMount, AbstractGefyraBridgeMountProvider):  # type: ignore[misc]
    """Our bridge-mount provider as one of the operator's."""


class Builders:
    """What the operator's factories call. access: makes the way into the cluster, once."""

    def __init__(self, access: Callable[[], Access] = KubernetesAccess) -> None:
        self.make = access
        self.made: Access | None = None
        self.known: dict[str, Known] = {}
        self.keepers: dict[str, Keeper] = {}

    def access(self) -> Access:
        """The way into the cluster."""
        if self.made is None:
            self.made = self.make()
        return self.made

    async def bridge(
        self,
        configuration: Any,
        name: str,
        target_namespace: str,
        target_pod: str,
        target_container: str,
        post_event_function: Event | None,
        logger: Any,
        **_ignored: Any,
    ) -> Provider:
        """A bridge's provider. target_pod: the name of its mount."""
        found = Provider(
            self.access(),
            name,
            target_namespace,
            target_pod,
            target_container,
            post_event_function,
            failures(),
            _namespace(configuration),
            _image(configuration),
            self.known_of(target_pod),
        )
        await found._async_init_()
        return found

    def known_of(self, mount: str) -> Known:
        """What is remembered of a mount."""
        return self.known.setdefault(mount, Known())

    def keep(self, mount: Mount) -> None:
        """See to it that somebody watches over a mount. In admission nobody does: that is another process, and has no events to post."""
        keeper = self.keepers.get(mount.name)
        if mount.event is not None and (keeper is None or keeper.ended):
            self.keepers[mount.name] = Keeper(mount)
            self.keepers[mount.name].start()

    async def close(self) -> None:
        """Watch no more."""
        for keeper in self.keepers.values():
            await keeper.stop()
        self.keepers.clear()

    def mount(
        self,
        configuration: Any,
        name: str,
        target_namespace: str,
        target: str,
        target_container: str,
        post_event_function: Event | None,
        parameter: Any,
        logger: Any,
        **_ignored: Any,
    ) -> Mount:
        """A mount's provider."""
        found = Mount(
            self.access(),
            name,
            target_namespace,
            target,
            target_container,
            _image(configuration),
            parameter,
            post_event_function,
            failures(),
            _namespace(configuration),
            known=self.known_of(name),
        )
        self.keep(found)
        return found


def _image(configuration: Any) -> str:
    return f"{configuration.CARRIER2_IMAGE}:{configuration.CARRIER2_IMAGE_TAG}"


def _namespace(configuration: Any) -> str:
    return str(getattr(configuration, "NAMESPACE", "gefyra"))


def register(access: Callable[[], Access] = KubernetesAccess) -> Builders:
    """Put our builders in force."""
    builders = Builders(access)
    bridge_provider_factory.register_builder(BridgeProviderType.CARRIER2, builders.bridge)
    bridge_mount_provider_factory.register_builder(BridgeMountProviderType.CARRIER2MOUNT, builders.mount)
    return builders


builders = register()
