"""A container's environment from values, ConfigMaps, Secrets, the downward API and `$(VAR)`.

A missing source raises ConfigProblem with the kubelet's sentence. Values must never be logged: they may be secrets.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sandbox.api.cluster import Cluster
from sandbox.controllers.reconciler import read
from sandbox.quantities import parse_quantity

Object = dict[str, Any]
_VARIABLE = re.compile(r"\$\$|\$\(([^)]*)\)")
_FIELD_KEY = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class ConfigProblem(Exception):
    """The container cannot be made from its configuration yet."""


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by known variables; unknown ones stay as they are, `$$` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return _VARIABLE.sub(replacement, text)


def data_of(source: Object) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret as bytes."""
    if source.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (source.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (source.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (source.get("binaryData") or {}).items()}


def field_value(pod: Object, path: str) -> str:
    """A downward API field as text."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    keyed = _FIELD_KEY.match(path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": status.get("hostIP", ""),
        "status.hostIPs": status.get("hostIP", ""),
        "status.podIP": status.get("podIP", ""),
        "status.podIPs": status.get("podIP", ""),
    }
    if path not in values:
        raise ConfigProblem(f"unsupported fieldPath: {path}")
    return str(values[path])


def resource_value(pod: Object, container: Object, reference: Object, node: Object | None) -> str:
    """`limits.cpu` and the like in units of the divisor, rounded up; a missing limit is the node's allocatable."""
    name = reference.get("containerName")
    if name:
        container = next((c for c in pod["spec"]["containers"] if c["name"] == name), container)
    kind, _, resource = str(reference["resource"]).partition(".")
    stated = ((container.get("resources") or {}).get(kind) or {}).get(resource)
    if stated is None:
        stated = (
            ((node or {}).get("status") or {}).get("allocatable", {}).get(resource, 0)
            if kind == "limits"
            else 0
        )
    divisor = parse_quantity(reference.get("divisor") or 1) or Decimal(1)
    return str(math.ceil(parse_quantity(stated) / divisor))


class EnvironmentBuilder:
    """Builds the environment of one pod's containers, reading what they refer to from the cluster."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        self._cluster = cluster
        self._pod = pod

    async def build(self, container: Object, image_env: Mapping[str, str]) -> dict[str, str]:
        env = {**image_env, "HOSTNAME": self._pod["spec"].get("hostname") or self._pod["metadata"]["name"]}
        for source in container.get("envFrom") or []:
            env |= await self._all_of(source)
        for entry in container.get("env") or []:
            if entry.get("valueFrom"):
                value = await self._value_from(container, entry["valueFrom"])
                if value is not None:
                    env[entry["name"]] = value
            else:
                env[entry["name"]] = expand(entry.get("value") or "", env)
        return env

    async def _source(self, kind: str, reference: Object) -> dict[str, str] | None:
        """The entries of the ConfigMap or Secret; None when it is optional and missing."""
        namespace, name = self._pod["metadata"]["namespace"], reference["name"]
        result = await read(self._cluster, f"{kind.lower()}s", (namespace, name))
        if result is None:
            if reference.get("optional"):
                return None
            raise ConfigProblem(f'{kind.lower()} "{name}" not found')
        return {
            key: value.decode(errors="replace") for key, value in data_of({**result, "kind": kind}).items()
        }

    async def _all_of(self, source: Object) -> dict[str, str]:
        kind = "ConfigMap" if "configMapRef" in source else "Secret"
        entries = await self._source(kind, source.get("configMapRef") or source["secretRef"])
        return {f"{source.get('prefix') or ''}{key}": value for key, value in (entries or {}).items()}

    async def _value_from(self, container: Object, source: Object) -> str | None:
        if "fieldRef" in source:
            return field_value(self._pod, source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            node = await read(self._cluster, "nodes", ("", self._pod["spec"]["nodeName"]))
            return resource_value(self._pod, container, source["resourceFieldRef"], node)
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if field in source:
                return await self._key_of(kind, source[field])
        raise ConfigProblem(f"the sandbox does not know the env source {', '.join(source)}")

    async def _key_of(self, kind: str, reference: Object) -> str | None:
        entries = await self._source(kind, reference)
        if entries is not None and reference["key"] in entries:
            return entries[reference["key"]]
        if reference.get("optional"):
            return None
        namespace = self._pod["metadata"]["namespace"]
        raise ConfigProblem(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
