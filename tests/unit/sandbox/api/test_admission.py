"""Quotas, limit ranges and PodSecurity refuse pods with the words of a real API server, also in a dry run."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster, WriteOptions
from sandbox.api.writes.admission.pod_security import violations
from sandbox.api.writes.admission.resource_quota import quota_status

Json = dict[str, Any]
RESTRICTED_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str = "web", context: Json | None = None, spec: Json | None = None, **resources: Json) -> Json:
    container = {"name": "main", "image": "busybox", "resources": resources}
    if context:
        container["securityContext"] = context
    return {"metadata": {"name": name}, "spec": {"containers": [container], **(spec or {})}}


def gpus(count: int) -> Json:
    return {"limits": {"nvidia.com/gpu": str(count)}}


async def add(cluster: Cluster, resource: str, name: str, spec: Json) -> None:
    await cluster.create(resource, {"metadata": {"name": name}, "spec": spec}, "default")


async def label(cluster: Cluster, **labels: str) -> None:
    named = {f"pod-security.kubernetes.io/{mode}": level for mode, level in labels.items()}
    await cluster.patch("namespaces", "default", {"metadata": {"labels": named}})


async def refusal(cluster: Cluster, obj: Json, resource: str = "pods") -> str:
    """The words of the refusal, the same for a dry run and for a create; nothing is made."""
    told = []
    for options in (WriteOptions(dry_run=True), WriteOptions()):
        with pytest.raises(ApiError) as caught:
            await cluster.create(resource, obj, "default", options)
        assert (caught.value.code, caught.value.reason) == (403, "Forbidden")
        told.append(caught.value.message)
    assert told[0] == told[1]
    assert (await cluster.list(resource))[0] == []
    return told[0]


async def test_a_quota_of_gpus(cluster: Cluster) -> None:
    await add(cluster, "resourcequotas", "gpu", {"hard": {"requests.nvidia.com/gpu": "0"}})
    assert await refusal(cluster, pod(**gpus(1))) == (
        'pods "web" is forbidden: exceeded quota: gpu, requested: requests.nvidia.com/gpu=1, '
        "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"
    )
    await cluster.create("pods", pod())  # asks for none


async def test_a_quota_counts_what_is_there_and_ended_pods_are_not(cluster: Cluster) -> None:
    await add(cluster, "resourcequotas", "q", {"hard": {"pods": "1", "requests.memory": "3Gi"}})
    first = await cluster.create("pods", pod(requests={"memory": "2Gi"}))
    dry = WriteOptions(dry_run=True)
    with pytest.raises(ApiError) as caught:
        await cluster.create("pods", pod("more", requests={"memory": "1536Mi"}), options=dry)
    assert caught.value.message == (
        'pods "more" is forbidden: exceeded quota: q, requested: pods=1,requests.memory=1536Mi, '
        "used: pods=1,requests.memory=2Gi, limited: pods=1,requests.memory=3Gi"
    )
    first["status"]["phase"] = "Succeeded"
    await cluster.update("pods", first, subresource="status")
    await cluster.create("pods", pod("more", requests={"memory": "1536Mi"}))
    quota = await cluster.get("resourcequotas", "q")
    assert quota_status(cluster.storage, quota) == {
        "hard": {"pods": "1", "requests.memory": "3Gi"},
        "used": {"pods": "1", "requests.memory": "1536Mi"},
    }


async def test_a_quota_demands_that_containers_say_what_they_need(cluster: Cluster) -> None:
    await add(cluster, "resourcequotas", "q", {"hard": {"limits.cpu": "4", "requests.memory": "4Gi"}})
    assert await refusal(cluster, pod()) == (
        'pods "web" is forbidden: failed quota: q: must specify limits.cpu for: main; requests.memory for: main'
    )


async def test_a_quota_of_other_objects(cluster: Cluster) -> None:
    hard = {"count/statefulsets.apps": "0", "requests.storage": "1Gi", "persistentvolumeclaims": "5"}
    await add(cluster, "resourcequotas", "q", {"hard": hard})
    claim = {
        "metadata": {"name": "work"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
    }
    assert await refusal(cluster, claim, "persistentvolumeclaims") == (
        'persistentvolumeclaims "work" is forbidden: exceeded quota: q, requested: requests.storage=2Gi, '
        "used: requests.storage=0, limited: requests.storage=1Gi"
    )
    labels = {"app": "s"}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    sets = {"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
    assert 'statefulsets.apps "s" is forbidden: exceeded quota: q, requested: count/statefulsets.apps=1' in (
        await refusal(cluster, sets, "statefulsets.apps")
    )


async def test_a_scoped_quota_leaves_other_pods_alone(cluster: Cluster) -> None:
    await add(cluster, "resourcequotas", "q", {"hard": {"pods": "0"}, "scopes": ["Terminating"]})
    await cluster.create("pods", pod("free"))
    with pytest.raises(ApiError, match="exceeded quota: q, requested: pods=1"):
        await cluster.create("pods", pod(spec={"activeDeadlineSeconds": 60}))


async def test_a_limit_range_gives_defaults_and_says_so(cluster: Cluster) -> None:
    limits = [{"type": "Container", "default": {"memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]
    await add(cluster, "limitranges", "l", {"limits": limits})
    made = await cluster.create("pods", pod())
    assert made["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }
    assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory request for container main; memory limit for container main"
    )
    assert made["status"]["qosClass"] == "Burstable"


@pytest.mark.parametrize(
    ("item", "resources", "words"),
    [
        (
            {"type": "Container", "max": {"memory": "1Gi"}},
            {"limits": {"memory": "2Gi"}},
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            {"type": "Container", "min": {"cpu": "500m"}},
            {"requests": {"cpu": "100m"}},
            "minimum cpu usage per Container is 500m, but request is 100m",
        ),
        ({"type": "Pod", "max": {"cpu": "1"}}, {}, "maximum cpu usage per Pod is 1.  No limit is specified"),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1", "memory": "1Gi"}},
            {"limits": {"cpu": "2", "memory": "2Gi"}},
            "[maximum cpu usage per Pod is 1, but limit is 2, maximum memory usage per Pod is 1Gi, but limit is 2Gi]",
        ),
    ],
)
async def test_a_limit_range_refuses(cluster: Cluster, item: Json, resources: Json, words: str) -> None:
    await add(cluster, "limitranges", "l", {"limits": [item]})
    assert await refusal(cluster, pod(**resources)) == f'pods "web" is forbidden: {words}'


async def test_a_limit_range_of_claims(cluster: Cluster) -> None:
    item = {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}
    await add(cluster, "limitranges", "l", {"limits": [item]})
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    assert await refusal(cluster, {"metadata": {"name": "w"}, "spec": spec}, "persistentvolumeclaims") == (
        'persistentvolumeclaims "w" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, '
        "but request is 2Gi"
    )


async def test_the_restricted_profile(cluster: Cluster) -> None:
    await label(cluster, enforce="restricted")
    assert await refusal(cluster, pod()) == (
        'pods "web" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
        '(container "main" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities '
        '(container "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or '
        'container "main" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "main" '
        'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )
    await cluster.create("pods", pod(context=RESTRICTED_CONTEXT))


@pytest.mark.parametrize(
    ("spec", "context", "words"),
    [
        ({"hostNetwork": True, "hostPID": True}, {}, "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            {},
            {"privileged": True},
            'privileged (container "main" must not set securityContext.privileged=true)',
        ),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, {}, 'hostPath volumes (volume "v")'),
        (
            {},
            {"capabilities": {"add": ["NET_ADMIN", "KILL"]}},
            'non-default capabilities (container "main" must not include "NET_ADMIN" in '
            "securityContext.capabilities.add)",
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
            {},
            'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
        ),
    ],
)
def test_the_baseline_profile(spec: Json, context: Json, words: str) -> None:
    assert violations("baseline", pod(context=context, spec=spec)["spec"]) == [words]
    assert violations("privileged", pod(context=context, spec=spec)["spec"]) == []


def test_every_check_of_the_restricted_profile_can_fail() -> None:
    spec = pod(context={"runAsUser": 0, "runAsNonRoot": False})["spec"]
    spec["volumes"] = [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]
    told = violations("restricted", spec)
    assert 'restricted volume types (volume "v" uses restricted volume type "hostPath")' in told
    assert 'runAsUser=0 (container "main" must not set runAsUser=0)' in told
    assert 'runAsNonRoot != true (container "main" must not set securityContext.runAsNonRoot=false)' in told


async def test_templates_are_only_warned_about(cluster: Cluster) -> None:
    await label(cluster, enforce="baseline", warn="restricted")
    labels = {"app": "s"}
    template = {"metadata": {"labels": labels}, "spec": pod(context={"privileged": True})["spec"]}
    sets = {"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
    options = WriteOptions()
    await cluster.create("statefulsets.apps", sets, options=options)
    assert [text.partition(": ")[0] for text in options.warnings] == [
        'would violate PodSecurity "restricted:latest"'
    ]
