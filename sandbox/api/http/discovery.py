"""Discovery: which groups, versions and resources there are, in the old and the aggregated form."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any

from sandbox.api.crd.definitions import version_priority

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Kinds, Resource

Json = dict[str, Any]

VERSION = "v1.36.0"

# Subresources that are not of their parent's kind.
_KINDS: dict[str, tuple[str, str, str]] = {
    "scale": ("autoscaling", "v1", "Scale"),
    "binding": ("", "v1", "Binding"),
    "eviction": ("policy", "v1", "Eviction"),
    "attach": ("", "v1", "PodAttachOptions"),
    "exec": ("", "v1", "PodExecOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
}
_VERBS = {
    "status": ["get", "patch", "update"],
    "scale": ["get", "patch", "update"],
    "log": ["get"],
    "binding": ["create"],
    "eviction": ["create"],
    "token": ["create"],
    "finalize": ["update"],
    "attach": ["create", "get"],
    "exec": ["create", "get"],
    "portforward": ["create", "get"],
    "proxy": ["create", "delete", "get", "patch", "update"],
    "resize": ["get", "patch", "update"],
    "ephemeralcontainers": ["get", "patch", "update"],
}


def version_info() -> Json:
    return {
        "major": "1",
        "minor": "36",
        "gitVersion": f"{VERSION}+kaito-sandbox",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-04-22T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def _subresource_kind(info: Resource, name: str) -> tuple[str, str, str]:
    group, version, kind = _KINDS.get(name, ("", "", ""))
    if kind:
        return group, version, kind
    if name == "proxy":
        return "", "v1", f"{info.kind}ProxyOptions"
    return info.group, info.version, info.kind


def _sorted_versions(kinds: Kinds, group: str) -> list[str]:
    return sorted(kinds.groups().get(group, []), key=version_priority)


def api_versions(server: str) -> Json:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(kinds: Kinds) -> Json:
    groups = [group_of(kinds, group) for group in kinds.groups() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_bare(group) for group in groups]}


def _bare(group: Json) -> Json:
    return {k: v for k, v in group.items() if k not in ("kind", "apiVersion")}


def group_of(kinds: Kinds, group: str) -> Json:
    versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in _sorted_versions(kinds, group)]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def resource_list(kinds: Kinds, group: str, version: str) -> Json:
    result: list[Json] = []
    for info in kinds.of(group, version):
        result.append(_entry(info))
        for name in info.subresources:
            sub_group, sub_version, kind = _subresource_kind(info, name)
            entry = {
                "name": f"{info.plural}/{name}",
                "singularName": "",
                "namespaced": info.namespaced,
                "kind": kind,
                "verbs": _VERBS[name],
            }
            if (sub_group, sub_version) != (group, version):
                entry = {"name": entry.pop("name"), "group": sub_group, "version": sub_version, **entry}
            result.append(entry)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": result,
    }


def _entry(info: Resource) -> Json:
    entry: Json = {
        "name": info.plural,
        "singularName": info.singular_name,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    entry["storageVersionHash"] = hashlib.sha256(info.key.encode()).hexdigest()[:11] + "="
    return entry


def aggregated(kinds: Kinds, core: bool) -> tuple[Json, str]:
    """The apidiscovery.k8s.io/v2 document of /api or /apis, and its ETag."""
    items = []
    for group in kinds.groups():
        if (group == "") is not core:
            continue
        versions = [
            {
                "version": version,
                "freshness": "Current",
                "resources": [_aggregated_entry(info) for info in kinds.of(group, version)],
            }
            for version in _sorted_versions(kinds, group)
        ]
        metadata = {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None}
        items.append({"metadata": metadata, "versions": versions})
    document = {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }
    return document, hashlib.sha256(json.dumps(document).encode()).hexdigest().upper()


def _aggregated_entry(info: Resource) -> Json:
    entry: Json = {
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular_name,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    if info.subresources:
        entry["subresources"] = [_aggregated_subresource(info, name) for name in info.subresources]
    return entry


def _aggregated_subresource(info: Resource, name: str) -> Json:
    group, version, kind = _subresource_kind(info, name)
    return {
        "subresource": name,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "verbs": _VERBS[name],
    }
