"""PodSecurity: pods against the profile that their namespace's `pod-security.kubernetes.io/enforce` label names.

The checks and their words are those of k8s.io/pod-security-admission, without the ones about SELinux, AppArmor and
Windows. Templates of workloads are only warned about, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import forbidden
from sandbox.api.meta import dig, metadata

if TYPE_CHECKING:
    from sandbox.api.kinds.resources import Resource
    from sandbox.api.storage.database import Storage

Json = dict[str, Any]

_LABEL = "pod-security.kubernetes.io/"
_TEMPLATES = {
    "deployments.apps": ("spec", "template", "spec"),
    "statefulsets.apps": ("spec", "template", "spec"),
    "replicasets.apps": ("spec", "template", "spec"),
    "daemonsets.apps": ("spec", "template", "spec"),
    "jobs.batch": ("spec", "template", "spec"),
    "cronjobs.batch": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_DEFAULT_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}
_RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SECCOMP = ("RuntimeDefault", "Localhost")

Check = Callable[[Json], str]


def check(storage: Storage, info: Resource, obj: Json) -> list[str]:
    """Warnings for a new pod or template; raises ApiError (403) for a pod that the enforced profile forbids."""
    path = ("spec",) if info.key == "pods" else _TEMPLATES.get(info.key)
    if path is None:
        return []
    meta = metadata(obj)
    namespace = storage.get("namespaces", ("", meta.get("namespace", "")))
    labels = (dig(namespace.obj, "metadata", "labels") if namespace else None) or {}
    spec = dig(obj, *path) or {}
    if info.key == "pods" and (broken := violations(labels.get(f"{_LABEL}enforce", ""), spec)):
        why = f"violates PodSecurity {_policy(labels, 'enforce')}: {', '.join(broken)}"
        raise forbidden(info.plural, info.group, meta.get("name", ""), why)
    broken = violations(labels.get(f"{_LABEL}warn", ""), spec)
    return [f"would violate PodSecurity {_policy(labels, 'warn')}: {', '.join(broken)}"] if broken else []


def _policy(labels: Json, mode: str) -> str:
    return f'"{labels[_LABEL + mode]}:{labels.get(f"{_LABEL}{mode}-version", "latest")}"'


def violations(level: str, spec: Json) -> list[str]:
    """What a pod spec does that a profile (`baseline`, `restricted`) forbids; nothing for any other level."""
    return [why for one in _PROFILES.get(level, ()) if (why := one(spec))]


# values


def _containers(spec: Json) -> list[Json]:
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _context(part: Json) -> Json:
    result: Json = part.get("securityContext") or {}
    return result


def _named(spec: Json, bad: Callable[[Json], Any]) -> list[str]:
    return [container.get("name", "") for container in _containers(spec) if bad(container)]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _who(names: list[str], noun: str = "container") -> str:
    return f"{noun}{'' if len(names) == 1 else 's'} {_quoted(names)}"


def _plainly(reason: str, names: list[str], rule: str) -> str:
    return f"{reason} ({_who(names)} {rule})" if names else ""


# baseline


def _host_namespaces(spec: Json) -> str:
    used = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return f"host namespaces ({', '.join(used)})" if used else ""


def _host_ports(spec: Json) -> str:
    names = _named(spec, lambda c: any(p.get("hostPort") for p in c.get("ports") or ()))
    ports = sorted(
        {p["hostPort"] for c in _containers(spec) for p in c.get("ports") or () if p.get("hostPort")}
    )
    verb, noun = "uses" if len(names) == 1 else "use", "hostPort" if len(ports) == 1 else "hostPorts"
    return _plainly("hostPort", names, f"{verb} {noun} {', '.join(map(str, ports))}")


def _privileged(spec: Json) -> str:
    names = _named(spec, lambda c: _context(c).get("privileged"))
    return _plainly("privileged", names, "must not set securityContext.privileged=true")


def _proc_mount(spec: Json) -> str:
    names = _named(spec, lambda c: _context(c).get("procMount", "Default") != "Default")
    return _plainly("procMount", names, 'must not set securityContext.procMount to "Unmasked"')


def _sysctls(spec: Json) -> str:
    names = [s["name"] for s in _context(spec).get("sysctls") or () if s["name"] not in _SAFE_SYSCTLS]
    return f"forbidden sysctls ({', '.join(names)})" if names else ""


def _added(spec: Json, allowed: set[str]) -> tuple[list[str], str]:
    """Containers that add other capabilities than the allowed ones, and which."""

    def extra(container: Json) -> set[str]:
        return set(dig(_context(container), "capabilities", "add") or ()) - allowed

    names = _named(spec, extra)
    listed = _quoted(sorted({name for container in _containers(spec) for name in extra(container)}))
    return names, f"must not include {listed} in securityContext.capabilities.add"


def _baseline_capabilities(spec: Json) -> str:
    return _plainly("non-default capabilities", *_added(spec, _DEFAULT_CAPABILITIES))


def _host_path_volumes(spec: Json) -> str:
    names = [volume["name"] for volume in spec.get("volumes") or () if "hostPath" in volume]
    return f"hostPath volumes ({_who(names, 'volume')})" if names else ""


def _profile(part: Json) -> str | None:
    result: str | None = dig(_context(part), "seccompProfile", "type")
    return result


def _unconfined(spec: Json) -> str:
    rule = 'must not set securityContext.seccompProfile.type to "Unconfined"'
    details = [f"pod {rule}"] if _profile(spec) == "Unconfined" else []
    if names := _named(spec, lambda c: _profile(c) == "Unconfined"):
        details.append(f"{_who(names)} {rule}")
    return f"seccompProfile ({', '.join(details)})" if details else ""


# restricted


def _privilege_escalation(spec: Json) -> str:
    names = _named(spec, lambda c: _context(c).get("allowPrivilegeEscalation") is not False)
    rule = "must set securityContext.allowPrivilegeEscalation=false"
    return _plainly("allowPrivilegeEscalation != false", names, rule)


def _restricted_capabilities(spec: Json) -> str:
    kept = _named(spec, lambda c: "ALL" not in (dig(_context(c), "capabilities", "drop") or ()))
    details = [f'{_who(kept)} must set securityContext.capabilities.drop=["ALL"]'] if kept else []
    adding, rule = _added(spec, {"NET_BIND_SERVICE"})
    if adding:
        details.append(f"{_who(adding)} {rule}")
    return f"unrestricted capabilities ({'; '.join(details)})" if details else ""


def _restricted_volumes(spec: Json) -> str:
    bad = {v["name"]: next((k for k in v if k != "name"), "") for v in spec.get("volumes") or ()}
    bad = {name: kind for name, kind in bad.items() if kind not in _RESTRICTED_VOLUMES}
    if not bad:
        return ""
    kinds = sorted(set(bad.values()))
    verb, noun = "uses" if len(bad) == 1 else "use", "type" if len(kinds) == 1 else "types"
    names = _who(list(bad), "volume")
    return f"restricted volume types ({names} {verb} restricted volume {noun} {_quoted(kinds)})"


def _non_root(spec: Json) -> str:
    pod = _context(spec).get("runAsNonRoot")
    rule = "must not set securityContext.runAsNonRoot=false"
    details = [f"pod {rule}"] if pod is False else []
    if explicit := _named(spec, lambda c: _context(c).get("runAsNonRoot") is False):
        details.append(f"{_who(explicit)} {rule}")
    implicit = _named(spec, lambda c: _context(c).get("runAsNonRoot") is None and pod is None)
    if implicit:
        details.append(f"pod or {_who(implicit)} must set securityContext.runAsNonRoot=true")
    return f"runAsNonRoot != true ({', '.join(details)})" if details else ""


def _root_user(spec: Json) -> str:
    details = ["pod must not set runAsUser=0"] if _context(spec).get("runAsUser") == 0 else []
    if names := _named(spec, lambda c: _context(c).get("runAsUser") == 0):
        details.append(f"{_who(names)} must not set runAsUser=0")
    return f"runAsUser=0 ({', '.join(details)})" if details else ""


def _restricted_seccomp(spec: Json) -> str:
    if broken := _unconfined(spec):
        return broken
    names = [] if _profile(spec) in _SECCOMP else _named(spec, lambda c: _profile(c) not in _SECCOMP)
    rule = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {_who(names)} {rule})" if names else ""


# In the order of their ids, as they are printed; restricted checks take the place of the baseline's on the same matter.
_PROFILES: dict[str, tuple[Check, ...]] = {
    "baseline": (
        _baseline_capabilities,
        _host_namespaces,
        _host_path_volumes,
        _host_ports,
        _privileged,
        _proc_mount,
        _unconfined,
        _sysctls,
    ),
    "restricted": (
        _host_namespaces,
        _host_ports,
        _privileged,
        _proc_mount,
        _sysctls,
        _privilege_escalation,
        _restricted_capabilities,
        _restricted_volumes,
        _non_root,
        _root_user,
        _restricted_seccomp,
    ),
}
