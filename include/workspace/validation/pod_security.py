"""Kubernetes' Pod Security Standards, asked of a pod template before it is applied: baseline and restricted.

The cluster's own admission looks at namespaces that carry its labels only, and at pods, long after a machine was
rented. Here every control of both profiles is a small function over the template as it was written, in the order of
the standard's page (kubernetes.io/docs/concepts/security/pod-security-standards), and each fault names the field.
What the standard leaves open although it hands out the rights of others, a service account and a place on a node, is
asked on top of both. Reads templates of any shape and never raises; what is not allowed by name is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from include.workspace.api.names import BASELINE, PRIVILEGED, RESTRICTED
from include.workspace.validation.faults import Fault

RULE = "F32"

CAPABILITIES = frozenset(
    {
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
)
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
CONFINED = (None, "RuntimeDefault", "Localhost")
RESTRICTED_VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS = ("postStart", "preStop")

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A mapping of the template, and where it stands."""

    path: str
    value: Object

    def at(self, key: str) -> Part:
        """The mapping below a key; an empty one where there is none."""
        found = self.value.get(key)
        return Part(f"{self.path}.{key}", found if isinstance(found, Mapping) else {})

    def each(self, key: str) -> list[Part]:
        """The mappings of a list."""
        found = self.value.get(key)
        listed = found if isinstance(found, list) else []
        return [
            Part(f"{self.path}.{key}[{index}]", item)
            for index, item in enumerate(listed)
            if isinstance(item, Mapping)
        ]

    def fault(self, key: str, message: str, hint: str = "remove it") -> Fault:
        return Fault(f"{self.path}.{key}", self.value.get(key), RULE, message, hint)


@dataclass(frozen=True)
class Template:
    """A pod template under examination."""

    whole: Part

    @property
    def spec(self) -> Part:
        return self.whole.at("spec")

    @property
    def containers(self) -> list[Part]:
        return [one for key in CONTAINER_LISTS for one in self.spec.each(key)]

    @property
    def contexts(self) -> list[Part]:
        """The pod's security context and those of its containers."""
        return [self.spec.at("securityContext"), *(one.at("securityContext") for one in self.containers)]


Control = Callable[[Template], Iterable[Fault]]


def _only(parts: Iterable[Part], key: str, allowed: Iterable[object], message: str) -> Iterator[Fault]:
    known = tuple(allowed)
    for part in parts:
        if not any(part.value.get(key) is one or part.value.get(key) == one for one in known):
            yield part.fault(key, message)


# --- baseline -----------------------------------------------------------------------------------------------------


def host_process(template: Template) -> Iterator[Fault]:
    windows = [context.at("windowsOptions") for context in template.contexts]
    yield from _only(windows, "hostProcess", (None, False), "would run on the node itself")


def host_namespaces(template: Template) -> Iterator[Fault]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        yield from _only([template.spec], key, (None, False), "would share a namespace of the node")


def privileged_containers(template: Template) -> Iterator[Fault]:
    message = "would give the container the whole node"
    yield from _only(template.contexts[1:], "privileged", (None, False), message)


def capabilities(template: Template) -> Iterator[Fault]:
    yield from _added(template, CAPABILITIES)


def _added(template: Template, allowed: frozenset[str]) -> Iterator[Fault]:
    for context in template.contexts[1:]:
        part = context.at("capabilities")
        for name in _texts(part.value.get("add")):
            if name not in allowed:
                hint = f"add none but {', '.join(sorted(allowed))}"
                yield Fault(f"{part.path}.add", name, RULE, "is a capability that is not allowed", hint)


def host_path_volumes(template: Template) -> Iterator[Fault]:
    yield from _only(
        template.spec.each("volumes"), "hostPath", (None,), "would open the node's disk to the pod"
    )


def host_ports(template: Template) -> Iterator[Fault]:
    ports = [port for one in template.containers for port in one.each("ports")]
    yield from _only(ports, "hostPort", (None, 0), "would take a port of the node")


def host_probes(template: Template) -> Iterator[Fault]:
    handlers = [one.at(probe) for one in template.containers for probe in PROBES]
    handlers += [one.at("lifecycle").at(hook) for one in template.containers for hook in HOOKS]
    actions = [handler.at(kind) for handler in handlers for kind in ("httpGet", "tcpSocket")]
    yield from _only(actions, "host", (None, ""), "would make the node call another address")


def app_armor(template: Template) -> Iterator[Fault]:
    profiles = [context.at("appArmorProfile") for context in template.contexts]
    yield from _only(profiles, "type", CONFINED, "would switch AppArmor off")
    notes = template.whole.at("metadata").at("annotations")
    for key, value in notes.value.items():
        confined = value in (None, "", "runtime/default") or str(value).startswith("localhost/")
        if str(key).startswith(APPARMOR_ANNOTATION) and not confined:
            yield Fault(f"{notes.path}[{key}]", value, RULE, "would switch AppArmor off", "remove it")


def selinux(template: Template) -> Iterator[Fault]:
    options = [context.at("seLinuxOptions") for context in template.contexts]
    yield from _only(options, "type", SELINUX_TYPES, "is an SELinux type that is not a container's")
    for key in ("user", "role"):
        yield from _only(options, key, (None, ""), "would set an SELinux identity of its own")


def proc_mount(template: Template) -> Iterator[Fault]:
    yield from _only(
        template.contexts[1:], "procMount", (None, "Default"), "would show the node's /proc unmasked"
    )


def seccomp(template: Template) -> Iterator[Fault]:
    profiles = [context.at("seccompProfile") for context in template.contexts]
    yield from _only(profiles, "type", CONFINED, "would switch seccomp off")


def sysctls(template: Template) -> Iterator[Fault]:
    for part in template.spec.at("securityContext").each("sysctls"):
        if part.value.get("name") not in SYSCTLS:
            yield part.fault("name", "is a sysctl that reaches beyond the pod")


# --- restricted ---------------------------------------------------------------------------------------------------


def volume_types(template: Template) -> Iterator[Fault]:
    for volume in template.spec.each("volumes"):
        for kind in sorted(set(volume.value) - {"name"} - RESTRICTED_VOLUMES):
            if kind != "hostPath":  # baseline says so
                hint = f"use one of {', '.join(sorted(RESTRICTED_VOLUMES))}"
                yield Fault(
                    f"{volume.path}.{kind}", None, RULE, "is a kind of volume that is not allowed", hint
                )


def privilege_escalation(template: Template) -> Iterator[Fault]:
    for context in template.contexts[1:]:
        if context.value.get("allowPrivilegeEscalation") is not False:
            yield context.fault("allowPrivilegeEscalation", "must be false", "set it to false")


def runs_as_non_root(template: Template) -> Iterator[Fault]:
    pod, *containers = template.contexts
    inherited = pod.value.get("runAsNonRoot")
    for context in containers:
        said = context.value.get("runAsNonRoot")
        if (inherited if said is None else said) is not True:
            yield context.fault(
                "runAsNonRoot", "must be true, here or in the pod's securityContext", "set it to true"
            )


def runs_as_user(template: Template) -> Iterator[Fault]:
    for context in template.contexts:
        if context.value.get("runAsUser") == 0:
            yield context.fault("runAsUser", "is root", "name another user id")


def seccomp_is_set(template: Template) -> Iterator[Fault]:
    pod, *containers = (context.at("seccompProfile") for context in template.contexts)
    for profile in containers:
        if profile.value.get("type") is None and pod.value.get("type") is None:
            hint = "set it to RuntimeDefault"
            yield profile.fault("type", "must be set, here or in the pod's securityContext", hint)


def dropped_capabilities(template: Template) -> Iterator[Fault]:
    for context in template.contexts[1:]:
        part = context.at("capabilities")
        if "ALL" not in _texts(part.value.get("drop")):
            yield part.fault("drop", "must hold ALL", "set it to [ALL]")


def only_bind_service_added(template: Template) -> Iterator[Fault]:
    yield from _added(template, frozenset({"NET_BIND_SERVICE"}))


# --- what the standard leaves open --------------------------------------------------------------------------------


def service_account(template: Template) -> Iterator[Fault]:
    """A template is applied by Airflow's account, so it could take any account of the namespace."""
    for key in ("serviceAccountName", "serviceAccount"):
        yield from _only(
            [template.spec], key, (None, "", "default"), "would give the pod the rights of an account"
        )
    message = "would give the pod a token of the cluster's API"
    yield from _only([template.spec], "automountServiceAccountToken", (None, False), message)
    for volume in template.spec.each("volumes"):
        for source in volume.at("projected").each("sources"):
            for key in ("serviceAccountToken", "podCertificate"):
                yield from _only([source], key, (None,), message)


def place(template: Template) -> Iterator[Fault]:
    """A template goes to its Workspace's machines, and in no case past the scheduler."""
    yield from _only(
        [template.spec], "nodeName", (None, ""), "would put the pod on a node past the scheduler"
    )
    given = template.spec.value.get("priorityClassName")
    if isinstance(given, str) and given.startswith("system-"):
        yield template.spec.fault("priorityClassName", "would evict what the cluster itself needs")
    meta = template.whole.at("metadata")
    for key in ("finalizers", "ownerReferences"):
        yield from _only([meta], key, (None, []), "belongs to those who delete pods")


_BASELINE: tuple[Control, ...] = (
    host_process,
    host_namespaces,
    privileged_containers,
    capabilities,
    host_path_volumes,
    host_ports,
    host_probes,
    app_armor,
    selinux,
    proc_mount,
    seccomp,
    sysctls,
    service_account,
    place,
)
_RESTRICTED: tuple[Control, ...] = (
    *(control for control in _BASELINE if control is not capabilities),
    volume_types,
    privilege_escalation,
    runs_as_non_root,
    runs_as_user,
    seccomp_is_set,
    dropped_capabilities,
    only_bind_service_added,
)
CONTROLS: Mapping[str, tuple[Control, ...]] = {BASELINE: _BASELINE, RESTRICTED: _RESTRICTED, PRIVILEGED: ()}


def template_faults(template: Object, path: str, policy: str) -> list[Fault]:
    """Every field of a pod template that a profile does not allow.

    :param template: a PodTemplateSpec as it was written.
    :param path: where it stands in its document.
    :param policy: one of `include.workspace.api.names.TEMPLATE_POLICIES`.
    """
    subject = Template(Part(path, template))
    return [fault for control in CONTROLS[policy] for fault in control(subject)]


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
