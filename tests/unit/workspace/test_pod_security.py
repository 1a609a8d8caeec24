# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""The Pod Security Standards, control by control: a template that breaks one and only it, and those that break none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import load_catalog
from include.workspace import Policy, examine_workspace
from include.workspace.api.names import BASELINE, PRIVILEGED, RESTRICTED
from include.workspace.validation.pod_security import (
    CAPABILITIES,
    CONTROLS,
    template_faults,
)
from tests.support.workspaces import SERVING, changed

PLAIN: dict[str, Any] = {"spec": {"containers": [{"name": "main", "image": "r.example.com/server:1"}]}}
#: What upstream's examples of templates do: probes on the pod's port, a GPU, a memory volume for /dev/shm.
UPSTREAM: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": "custom-llm",
                "image": "r.example.com/server:1",
                "command": ["accelerate"],
                "args": ["launch", "serve.py"],
                "env": [
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}}
                ],
                "livenessProbe": {"httpGet": {"path": "/health", "port": 5000, "scheme": "HTTP"}},
                "readinessProbe": {"httpGet": {"path": "/health", "port": 5000, "scheme": "HTTP"}},
                "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 1}},
                "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}],
    }
}
HARD: dict[str, Any] = {
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": "r.example.com/server:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    }
}
MAIN = "spec.containers.0"

BROKEN_BASELINE: list[tuple[dict[str, Any], str]] = [
    ({"spec.securityContext": {"windowsOptions": {"hostProcess": True}}}, "spec.securityContext.windowsOptions.hostProcess"),
    ({f"{MAIN}.securityContext": {"windowsOptions": {"hostProcess": True}}}, "spec.containers[0].securityContext.windowsOptions.hostProcess"),
    ({"spec.hostNetwork": True}, "spec.hostNetwork"),
    ({"spec.hostPID": True}, "spec.hostPID"),
    ({"spec.hostPID": "true"}, "spec.hostPID"),
    ({"spec.hostIPC": True}, "spec.hostIPC"),
    ({f"{MAIN}.securityContext": {"privileged": True}}, "spec.containers[0].securityContext.privileged"),
    ({"spec.initContainers": [{"name": "i", "securityContext": {"privileged": True}}]}, "spec.initContainers[0].securityContext.privileged"),
    ({"spec.ephemeralContainers": [{"name": "e", "securityContext": {"privileged": True}}]}, "spec.ephemeralContainers[0].securityContext.privileged"),
    ({f"{MAIN}.securityContext": {"capabilities": {"add": ["CHOWN", "SYS_ADMIN"]}}}, "spec.containers[0].securityContext.capabilities.add"),
    ({"spec.volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "spec.volumes[0].hostPath"),
    ({"spec.volumes": [{"name": "v", "hostPath": {}}]}, "spec.volumes[0].hostPath"),
    ({f"{MAIN}.ports": [{"containerPort": 80, "hostPort": 80}]}, "spec.containers[0].ports[0].hostPort"),
    ({f"{MAIN}.livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}}, "spec.containers[0].livenessProbe.httpGet.host"),
    ({f"{MAIN}.lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}}}, "spec.containers[0].lifecycle.preStop.tcpSocket.host"),
    ({"spec.securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, "spec.securityContext.appArmorProfile.type"),
    ({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}}}, "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]"),
    ({f"{MAIN}.securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "spec.containers[0].securityContext.seLinuxOptions.type"),
    ({"spec.securityContext": {"seLinuxOptions": {"user": "root"}}}, "spec.securityContext.seLinuxOptions.user"),
    ({"spec.securityContext": {"seLinuxOptions": {"role": "r"}}}, "spec.securityContext.seLinuxOptions.role"),
    ({f"{MAIN}.securityContext": {"procMount": "Unmasked"}}, "spec.containers[0].securityContext.procMount"),
    ({"spec.securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "spec.securityContext.seccompProfile.type"),
    ({f"{MAIN}.securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "spec.containers[0].securityContext.seccompProfile.type"),
    ({"spec.securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, "spec.securityContext.sysctls[0].name"),
    # What the standard leaves open.
    ({"spec.serviceAccountName": "cluster-admin"}, "spec.serviceAccountName"),
    ({"spec.serviceAccount": "cluster-admin"}, "spec.serviceAccount"),
    ({"spec.automountServiceAccountToken": True}, "spec.automountServiceAccountToken"),
    ({"spec.volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "spec.volumes[0].projected.sources[0].serviceAccountToken"),
    ({"spec.nodeName": "control-plane"}, "spec.nodeName"),
    ({"spec.priorityClassName": "system-node-critical"}, "spec.priorityClassName"),
    ({"metadata": {"finalizers": ["example.com/hold"]}}, "metadata.finalizers"),
]  # fmt: skip
BROKEN_RESTRICTED: list[tuple[dict[str, Any], str]] = [
    ({"spec.volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "spec.volumes[0].nfs"),
    ({f"{MAIN}.securityContext.allowPrivilegeEscalation": True}, "spec.containers[0].securityContext.allowPrivilegeEscalation"),
    ({f"{MAIN}.securityContext.runAsNonRoot": False}, "spec.containers[0].securityContext.runAsNonRoot"),
    ({"spec.securityContext.runAsNonRoot": None}, "spec.containers[0].securityContext.runAsNonRoot"),
    ({"spec.securityContext.runAsUser": 0}, "spec.securityContext.runAsUser"),
    ({f"{MAIN}.securityContext.runAsUser": 0}, "spec.containers[0].securityContext.runAsUser"),
    ({"spec.securityContext.seccompProfile": {}}, "spec.containers[0].securityContext.seccompProfile.type"),
    ({f"{MAIN}.securityContext.capabilities": {"drop": ["CHOWN"]}}, "spec.containers[0].securityContext.capabilities.drop"),
    ({f"{MAIN}.securityContext.capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}, "spec.containers[0].securityContext.capabilities.add"),
]  # fmt: skip


def paths(template: dict[str, Any], policy: str) -> list[str]:
    return [fault.path for fault in template_faults(template, "t", policy)]


@pytest.mark.parametrize(("changes", "path"), BROKEN_BASELINE)
def test_a_control_of_baseline(changes: dict[str, Any], path: str) -> None:
    assert paths(changed(PLAIN, changes), BASELINE) == [f"t.{path}"]
    assert f"t.{path}" in paths(changed(HARD, changes), RESTRICTED), (
        "restricted has every control of baseline"
    )
    assert paths(changed(PLAIN, changes), PRIVILEGED) == []


@pytest.mark.parametrize(("changes", "path"), BROKEN_RESTRICTED)
def test_a_control_of_restricted(changes: dict[str, Any], path: str) -> None:
    assert paths(changed(HARD, changes), RESTRICTED) == [f"t.{path}"]
    assert paths(changed(HARD, changes), BASELINE) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.hostNetwork": False, "spec.hostPID": None},
        {f"{MAIN}.securityContext": {"capabilities": {"add": sorted(CAPABILITIES)}, "privileged": False}},
        {f"{MAIN}.ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}]},
        {f"{MAIN}.securityContext": {"runAsUser": 0, "procMount": "Default"}},
        {"spec.securityContext": {"seLinuxOptions": {"type": "container_t", "level": "s0"}}},
        {"spec.securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
        {"spec.serviceAccountName": "default", "spec.automountServiceAccountToken": False},
        {
            "spec.volumes": [
                {"name": "v", "secret": {"secretName": "s"}},
                {"name": "w", "csi": {"driver": "d"}},
            ]
        },
        {
            "metadata": {
                "annotations": {"container.apparmor.security.beta.kubernetes.io/main": "runtime/default"}
            }
        },
    ],
)
def test_what_baseline_allows(changes: dict[str, Any]) -> None:
    assert paths(changed(PLAIN, changes), BASELINE) == []


def test_every_control_has_a_template_that_breaks_it() -> None:
    for policy, plain, cases in ((BASELINE, PLAIN, BROKEN_BASELINE), (RESTRICTED, HARD, BROKEN_RESTRICTED)):
        for control in set(CONTROLS[policy]) - (set(CONTROLS[BASELINE]) if policy == RESTRICTED else set()):
            broken = [
                path for changes, path in cases for one in [changed(plain, changes)] if _breaks(control, one)
            ]
            assert broken, f"no case breaks {control.__name__}"


def _breaks(control: Any, template: dict[str, Any]) -> bool:
    from include.workspace.validation.pod_security import Part, Template

    return bool(list(control(Template(Part("t", template)))))


def test_upstreams_example_templates_keep_the_default_profile() -> None:
    document = changed(SERVING, {"inference": {"template": UPSTREAM}})
    assert examine_workspace(document, load_catalog())[1] == []
    told = {
        fault.rule
        for fault in examine_workspace(document, load_catalog(), Policy(template_policy=RESTRICTED))[1]
    }
    assert told == {"F32"}


KEYS = ["spec", "metadata", "containers", "initContainers", "volumes", "securityContext", "capabilities", "add",
        "windowsOptions", "sysctls", "ports", "lifecycle", "preStop", "httpGet", "annotations", "projected", "sources"]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=25,
)


@given(
    template=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3),
    policy=st.sampled_from(sorted(CONTROLS)),
)
def test_templates_of_any_shape_can_be_read(template: dict[str, Any], policy: str) -> None:
    template_faults(template, "t", policy)
