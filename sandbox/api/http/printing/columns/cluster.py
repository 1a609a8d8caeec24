"""`kubectl get` of nodes, namespaces, services, volumes, configuration, events and the small kinds."""

from __future__ import annotations

from typing import Any

from sandbox.api.http.printing.columns.parts import (
    Cells,
    Columns,
    access_modes,
    age,
    joined,
    labels_text,
    name,
    selector_text,
    since,
)
from sandbox.api.meta import dig

Json = dict[str, Any]

_ROLE = "node-role.kubernetes.io/"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _node(obj: Json) -> Cells:
    ready = next((c for c in dig(obj, "status", "conditions") or () if c["type"] == "Ready"), None)
    status = "Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"
    if dig(obj, "spec", "unschedulable"):
        status += ",SchedulingDisabled"
    labels = dig(obj, "metadata", "labels") or {}
    roles = sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))
    roles += [labels["kubernetes.io/role"]] if labels.get("kubernetes.io/role") else []
    info = dig(obj, "status", "nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in reversed(dig(obj, "status", "addresses") or [])}
    return [
        name(obj),
        status,
        joined(roles),
        age(obj),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _external(obj: Json) -> str:
    spec = obj.get("spec") or {}
    given = list(spec.get("externalIPs") or ())
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    if spec.get("type") == "LoadBalancer":
        ingress = dig(obj, "status", "loadBalancer", "ingress") or ()
        given += [item.get("ip") or item.get("hostname", "") for item in ingress]
        return ",".join(given) or "<pending>"
    return joined(given)


def _service(obj: Json) -> Cells:
    spec = obj.get("spec") or {}
    ports = []
    for port in spec.get("ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    address = spec.get("clusterIP") or "<none>"
    return [
        name(obj),
        spec.get("type"),
        address,
        _external(obj),
        joined(ports),
        age(obj),
        labels_text(spec.get("selector")),
    ]


def _subsets(obj: Json) -> str:
    result = [
        f"{address['ip']}:{port['port']}" if port else address["ip"]
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or (None,)
        for address in subset.get("addresses") or ()
    ]
    more = f" + {len(result) - 3} more..." if len(result) > 3 else ""
    return joined(result[:3]) + more


def _slice(obj: Json) -> Cells:
    ports = [str(p.get("port") or "*") for p in obj.get("ports") or ()]
    addresses = [
        address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()
    ]
    more = f" + {len(addresses) - 3} more..." if len(addresses) > 3 else ""
    shown = ",".join(addresses[:3]) + more
    return [name(obj), obj.get("addressType"), ",".join(ports) or "<unset>", shown or "<unset>", age(obj)]


def _event(obj: Json) -> Cells:
    involved = obj.get("involvedObject") or {}
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("eventTime") or dig(obj, "metadata", "creationTimestamp")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or first
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent") or ""
    where = f"{component}, {source['host']}" if source.get("host") else component
    return [
        since(last),
        obj.get("type"),
        obj.get("reason"),
        f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
        involved.get("fieldPath", ""),
        where,
        str(obj.get("message", "")).strip(),
        since(first),
        series.get("count") or obj.get("count") or 1,
        name(obj),
    ]


def _claim(obj: Json) -> Cells:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", "")
    bound = bool(spec.get("volumeName"))
    return [
        name(obj),
        phase,
        spec.get("volumeName", ""),
        dig(status, "capacity", "storage") or "" if bound else "",
        access_modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or "<unset>",
        age(obj),
        spec.get("volumeMode") or "<unset>",
    ]


def _volume(obj: Json) -> Cells:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    claim = spec.get("claimRef") or {}
    return [
        name(obj),
        dig(spec, "capacity", "storage") or "",
        access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy"),
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age(obj),
        spec.get("volumeMode") or "<unset>",
    ]


def _class(obj: Json) -> Cells:
    annotations = dig(obj, "metadata", "annotations") or {}
    shown = name(obj) + (" (default)" if annotations.get(_DEFAULT_CLASS) == "true" else "")
    expands = bool(obj.get("allowVolumeExpansion"))
    return [
        shown,
        obj.get("provisioner"),
        obj.get("reclaimPolicy"),
        obj.get("volumeBindingMode"),
        expands,
        age(obj),
    ]


def _created(obj: Json) -> Cells:
    return [name(obj), dig(obj, "metadata", "creationTimestamp")]


def _subjects(obj: Json) -> Cells:
    result: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        shown = (
            subject["name"]
            if subject["kind"] != "ServiceAccount"
            else f"{subject.get('namespace')}/{subject['name']}"
        )
        result.setdefault(subject["kind"], []).append(shown)
    return [", ".join(result[kind]) for kind in ("User", "Group", "ServiceAccount")]


def _binding(obj: Json) -> Cells:
    role = obj.get("roleRef") or {}
    return [name(obj), f"{role.get('kind')}/{role.get('name')}", age(obj), *_subjects(obj)]


def _revision(obj: Json) -> Cells:
    owner = next((o for o in dig(obj, "metadata", "ownerReferences") or () if o.get("controller")), None)
    group = owner["apiVersion"].rpartition("/")[0] if owner else ""
    shown = f"{owner['kind'].lower()}{'.' + group if group else ''}/{owner['name']}" if owner else "<none>"
    return [name(obj), shown, obj.get("revision", 0), age(obj)]


def _secret(obj: Json) -> Cells:
    return [name(obj), obj.get("type"), len(obj.get("data") or ()), age(obj)]


def _config_map(obj: Json) -> Cells:
    return [name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj)]


def _budget(obj: Json) -> Cells:
    spec = obj.get("spec") or {}
    shown = [str(spec[part]) if part in spec else "N/A" for part in ("minAvailable", "maxUnavailable")]
    return [name(obj), *shown, dig(obj, "status", "disruptionsAllowed") or 0, age(obj)]


def _priority(obj: Json) -> Cells:
    return [
        name(obj),
        obj.get("value"),
        bool(obj.get("globalDefault")),
        age(obj),
        obj.get("preemptionPolicy", ""),
    ]


_DATA = frozenset({"Data"})
_RBAC = "rbac.authorization.k8s.io"
_BINDINGS = Columns(("Name", "Role", "Age", "*Users", "*Groups", "*ServiceAccounts"), _binding)
_CREATED = Columns(("Name", "Created At"), _created)

TABLES: dict[str, Columns] = {
    "nodes": Columns(
        (
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "*Internal-IP",
            "*External-IP",
            "*OS-Image",
            "*Kernel-Version",
            "*Container-Runtime",
        ),
        _node,
    ),
    "namespaces": Columns(
        ("Name", "Status", "Age"), lambda obj: [name(obj), dig(obj, "status", "phase"), age(obj)]
    ),
    "services": Columns(
        ("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "*Selector"), _service
    ),
    "endpoints": Columns(("Name", "Endpoints", "Age"), lambda obj: [name(obj), _subsets(obj), age(obj)]),
    "endpointslices.discovery.k8s.io": Columns(("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    "events": Columns(
        (
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "*Subobject",
            "*Source",
            "Message",
            "*First Seen",
            "*Count",
            "*Name",
        ),
        _event,
        frozenset({"Count"}),
    ),
    "persistentvolumeclaims": Columns(
        (
            "Name",
            "Status",
            "Volume",
            "Capacity",
            "Access Modes",
            "StorageClass",
            "VolumeAttributesClass",
            "Age",
            "*VolumeMode",
        ),
        _claim,
    ),
    "persistentvolumes": Columns(
        (
            "Name",
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "VolumeAttributesClass",
            "Reason",
            "Age",
            "*VolumeMode",
        ),
        _volume,
    ),
    "storageclasses.storage.k8s.io": Columns(
        ("Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), _class
    ),
    "secrets": Columns(("Name", "Type", "Data", "Age"), _secret, _DATA),
    "configmaps": Columns(("Name", "Data", "Age"), _config_map, _DATA),
    "serviceaccounts": Columns(
        ("Name", "Secrets", "Age"),
        lambda obj: [name(obj), len(obj.get("secrets") or ()), age(obj)],
        frozenset({"Secrets"}),
    ),
    "leases.coordination.k8s.io": Columns(
        ("Name", "Holder", "Age"), lambda obj: [name(obj), dig(obj, "spec", "holderIdentity") or "", age(obj)]
    ),
    "controllerrevisions.apps": Columns(
        ("Name", "Controller", "Revision", "Age"), _revision, frozenset({"Revision"})
    ),
    "customresourcedefinitions.apiextensions.k8s.io": _CREATED,
    f"roles.{_RBAC}": _CREATED,
    f"clusterroles.{_RBAC}": _CREATED,
    f"rolebindings.{_RBAC}": _BINDINGS,
    f"clusterrolebindings.{_RBAC}": _BINDINGS,
    "networkpolicies.networking.k8s.io": Columns(
        ("Name", "Pod-Selector", "Age"),
        lambda obj: [name(obj), selector_text(dig(obj, "spec", "podSelector")), age(obj)],
    ),
    "poddisruptionbudgets.policy": Columns(
        ("Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"), _budget
    ),
    "priorityclasses.scheduling.k8s.io": Columns(
        ("Name", "Value", "Global-Default", "Age", "PreemptionPolicy"), _priority
    ),
}
