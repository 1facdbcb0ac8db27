"""TLS of a mount, in every form that Gefyra's client writes: `{tls: {...}}` for all ports, `{"8443": {tls: {...}}}` for one, and each value
a path in the container or `{secret: {namespace, name, key}}`.

What a Secret holds is given to the proxy as a file of the name that the operator would give it. It is read anew at each look: a
certificate that was renewed is in force within a minute.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from carrier.gefyra.access import Access, Object

FILES = {"certificate": "from_k8s_secret_cert_{}.pem", "key": "from_k8s_secret_key_{}.pem"}


class Certificates:
    """What one mount's parameter says. namespace: where a Secret is that names none."""

    def __init__(self, parameter: Mapping[str, Any] | None, namespace: str) -> None:
        self.parameter = parameter or {}
        self.namespace = namespace

    def _block(self, port: int) -> tuple[str, Mapping[str, Any]] | None:
        """(port or "all", the `tls` block) that holds for a port: its own before that of all."""
        own = self.parameter.get(str(port))
        for which, holder in ((str(port), own), ("all", self.parameter)):
            block = holder.get("tls") if isinstance(holder, Mapping) else None
            if isinstance(block, Mapping) and ("certificate" in block or "key" in block):
                return which, block
        return None

    def problems(self, ports: list[int]) -> list[str]:
        """What is wrong with it, in sentences."""
        found = []
        for key, value in self.parameter.items():
            if key != "tls" and not key.isdigit():
                found.append(f"the parameter {key!r} of a mount is none: expected tls, or a port with its tls")
            elif key.isdigit() and int(key) not in ports:
                found.append(
                    f"TLS is given for port {key}, which the container does not have; it has {', '.join(map(str, ports)) or 'none'}"
                )
            elif not isinstance(value, Mapping) or (key != "tls" and not isinstance(value.get("tls"), Mapping)):
                found.append(f"the parameter {key!r} of a mount is no object with TLS: {{certificate, key, sni}}")
        for port in ports:
            which, block = self._block(port) or ("", {})
            for name in ("certificate", "key") if which else ():
                if not _is_value(block.get(name)):
                    expected = "a path in the container, or {secret: {namespace, name, key}}"
                    found.append(f"TLS of port {port}: {name} cannot be {block.get(name)!r}; expected {expected}")
        return list(dict.fromkeys(found))

    def of(self, port: int) -> Object | None:
        """The `tls` of a port in Gefyra's format, with names of files in the place of Secrets; None: it has none."""
        found = self._block(port)
        if found is None:
            return None
        which, block = found
        made: Object = {}
        for name, file in FILES.items():
            value = block.get(name)
            made[name] = file.format(which) if isinstance(value, Mapping) else value
        if isinstance(block.get("sni"), str) and block["sni"]:
            made["sni"] = block["sni"]
        return made

    async def read(self, access: Access, ports: list[int]) -> tuple[dict[str, str], dict[int, str]]:
        """(file -> what it holds, port -> server name that a Secret holds). Raises LookupError: a Secret, or its key, is not there."""
        files: dict[str, str] = {}
        names: dict[int, str] = {}
        for port in ports:
            which, block = self._block(port) or ("", {})
            for name, file in FILES.items():
                if isinstance(block.get(name), Mapping):
                    files[file.format(which)] = await self._secret(access, block[name])
            if isinstance(block.get("sni"), Mapping):
                names[port] = (await self._secret(access, block["sni"])).strip()
        return files, names

    async def _secret(self, access: Access, value: Mapping[str, Any]) -> str:
        named = value.get("secret") or {}
        namespace, name, key = str(named.get("namespace") or self.namespace), str(named.get("name")), str(named.get("key"))
        secret = await access.get("Secret", namespace, name)
        if secret is None:
            raise LookupError(f"there is no Secret {name} in namespace {namespace}")
        data = secret.get("data") or {}
        if key not in data:
            raise LookupError(f"Secret {name} in namespace {namespace} has no key {key!r}; it has {', '.join(sorted(data)) or 'none'}")
        try:
            return base64.b64decode(data[key], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise LookupError(f"key {key!r} of Secret {name} in namespace {namespace} holds no PEM text") from None


def _is_value(value: object) -> bool:
    if isinstance(value, Mapping):
        secret = value.get("secret")
        return isinstance(secret, Mapping) and all(isinstance(secret.get(name), str) and secret[name] for name in ("name", "key"))
    return isinstance(value, str) and bool(value)
