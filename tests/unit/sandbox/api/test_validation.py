"""What the built-in kinds refuse, in the server's own words."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster, WriteOptions
from sandbox.quantities import canonical

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", "500m"),
        (1, "1"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("100", "100"),
        ("0.1Ki", "102400m"),
        ("1e3", "1e3"),
        ("0", "0"),
        ("12E", "12E"),
        ("-1", "-1"),
        ("3Ti", "3Ti"),
        ("0.0000000001", "1n"),
    ],
)
def test_quantities(text: str | int, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1Gib", "--1"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        canonical(text)


async def refused(cluster: Cluster, resource: str, obj: Json) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await cluster.create(resource, obj)
    return caught.value


def with_container(**container: Any) -> Json:
    spec = {"containers": [{"name": "main", "image": "busybox", **container}]}
    return {"metadata": {"name": "web"}, "spec": spec}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (
            {"metadata": {}, "spec": {"containers": []}},
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            {"metadata": {"name": "A"}, "spec": {"containers": []}},
            'metadata.name: Invalid value: "A": a lowercase RFC',
        ),
        ({"metadata": {"name": "a"}, "spec": {}}, "spec.containers: Required value"),
        (with_container(image=""), "spec.containers[0].image: Required value"),
        (
            with_container(imagePullPolicy="Now"),
            'spec.containers[0].imagePullPolicy: Unsupported value: "Now"',
        ),
        (
            with_container(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            with_container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
        ),
        (
            with_container(resources={"requests": {"nvidia.com/gpu": "1"}}),
            "Limit must be set for non overcommitable resources",
        ),
        (with_container(ports=[{"containerPort": 70000}]), "must be between 1 and 65535, inclusive"),
        (
            {"metadata": {"name": "a", "labels": {"k": "white space"}}, "spec": {"containers": []}},
            'metadata.labels: Invalid value: "white space": a valid label must be',
        ),
    ],
)
async def test_pods(cluster: Cluster, obj: Json, message: str) -> None:
    error = await refused(cluster, "pods", obj)
    assert message in error.message
    assert error.code == 422


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (
            {"args": "x"},
            "json: cannot unmarshal string into Go struct field Container.spec.containers.args of type []string",
        ),
        (
            {"env": [{"name": "A", "value": 1}]},
            "cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value",
        ),
        (
            {"ports": [{"containerPort": "80"}]},
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        ({"resources": {"limits": {"cpu": "many"}}}, "quantities must match the regular expression"),
    ],
)
async def test_wrong_types(cluster: Cluster, container: Json, message: str) -> None:
    error = await refused(cluster, "pods", with_container(**container))
    assert message in error.message
    assert error.message.startswith('Pod in version "v1" cannot be handled as a Pod: ')
    assert error.code == 400


async def test_a_running_pod_is_fixed(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    made["spec"]["containers"][0]["image"] = "newer"
    made = await cluster.update("pods", made)
    made["spec"]["containers"][0]["command"] = ["sh"]
    with pytest.raises(ApiError, match="pod updates may not change fields other than"):
        await cluster.update("pods", made)


async def test_defaults_of_probes_ports_and_volumes(cluster: Cluster) -> None:
    body = with_container(
        readinessProbe={"httpGet": {"port": 80}},
        ports=[{"containerPort": 80}],
        env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        resources={"limits": {"cpu": 1, "memory": "1Gi"}},
    )
    body["spec"]["volumes"] = [{"name": "e"}, {"name": "c", "configMap": {"name": "x"}}]
    made = await cluster.create("pods", body)
    container = made["spec"]["containers"][0]
    assert container["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert made["status"]["qosClass"] == "Guaranteed"
    assert made["spec"]["volumes"] == [
        {"name": "e", "emptyDir": {}},
        {"name": "c", "configMap": {"name": "x", "defaultMode": 0o644}},
    ]
    assert [t["key"] for t in made["spec"]["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ]


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("r:5000/a", "Always"),
        ("a@sha256:0", "IfNotPresent"),
    ],
)
async def test_pull_policy(cluster: Cluster, image: str, policy: str) -> None:
    made = await cluster.create("pods", with_container(image=image))
    assert made["spec"]["containers"][0]["imagePullPolicy"] == policy


async def test_secrets(cluster: Cluster) -> None:
    made = await cluster.create(
        "secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}}
    )
    assert (made["type"], made["data"]) == ("Opaque", {"a": base64.b64encode(b"b").decode(), "c": "ZA=="})
    error = await refused(cluster, "secrets", {"metadata": {"name": "t"}, "data": {"a": "no base64!"}})
    assert "illegal base64 data at input byte 2" in error.message
    docker = {"metadata": {"name": "t"}, "type": "kubernetes.io/dockerconfigjson"}
    assert "data[.dockerconfigjson]: Required value" in (await refused(cluster, "secrets", docker)).message
    with pytest.raises(ApiError, match="type: Invalid value"):
        await cluster.patch("secrets", "s", {"type": "other"})


async def test_immutable_config_maps(cluster: Cluster) -> None:
    await cluster.create("configmaps", {"metadata": {"name": "c"}, "data": {"a": "b"}, "immutable": True})
    with pytest.raises(ApiError, match="field is immutable when `immutable` is set"):
        await cluster.patch("configmaps", "c", {"data": {"a": "c"}})
    error = await refused(cluster, "configmaps", {"metadata": {"name": "d"}, "data": {"a b": "c"}})
    assert "a valid config key must consist of" in error.message


def stateful_set(**spec: Any) -> Json:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": with_container()["spec"]}
    return {
        "metadata": {"name": "s"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s", "template": template, **spec},
    }


async def test_stateful_sets(cluster: Cluster) -> None:
    made = await cluster.create("statefulsets.apps", stateful_set())
    assert made["spec"]["podManagementPolicy"] == "OrderedReady"
    assert made["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    with pytest.raises(ApiError, match="updates to statefulset spec for fields other than"):
        await cluster.patch("statefulsets.apps", "s", {"spec": {"serviceName": "t"}})
    other = stateful_set(selector={"matchLabels": {"x": "y"}})
    assert (
        "`selector` does not match template `labels`"
        in (await refused(cluster, "statefulsets.apps", other)).message
    )


async def test_deployment_annotations_are_desired_state(cluster: Cluster) -> None:
    await cluster.create(
        "deployments.apps", {**stateful_set(), "spec": stateful_set()["spec"] | {"replicas": 1}}
    )
    changed = await cluster.patch("deployments.apps", "s", {"metadata": {"annotations": {"a": "b"}}})
    assert changed["metadata"]["generation"] == 2


async def test_jobs(cluster: Cluster) -> None:
    template = {"spec": {**with_container()["spec"], "restartPolicy": "Never"}}
    made = await cluster.create("jobs.batch", {"metadata": {"name": "j"}, "spec": {"template": template}})
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert made["spec"]["template"]["metadata"]["labels"]["job-name"] == "j"
    assert (made["spec"]["completions"], made["spec"]["backoffLimit"]) == (1, 6)
    always = {"metadata": {"name": "k"}, "spec": {"template": {"spec": with_container()["spec"]}}}
    assert (
        'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
        in (await refused(cluster, "jobs.batch", always)).message
    )


async def test_claims(cluster: Cluster) -> None:
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    await cluster.create(
        "storageclasses.storage.k8s.io",
        {"metadata": {"name": "local", "annotations": default}, "provisioner": "x.y/z"},
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    made = await cluster.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})
    assert made["spec"]["storageClassName"] == "local"
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    with pytest.raises(ApiError, match="spec is immutable after creation except"):
        await cluster.patch("persistentvolumeclaims", "c", {"spec": {"accessModes": ["ReadOnlyMany"]}})
    bare = await refused(cluster, "persistentvolumeclaims", {"metadata": {"name": "d"}, "spec": {}})
    assert "at least 1 access mode is required" in bare.message


async def test_unknown_fields_are_dropped_with_a_warning(cluster: Cluster) -> None:
    options = WriteOptions(validation="Warn")
    made = await cluster.create("pods", with_container(imagee="x"), options=options)
    assert "imagee" not in made["spec"]["containers"][0]
    assert options.warnings == ['unknown field "spec.containers[0].imagee"']


async def test_the_body_must_be_of_the_kind_asked_for(cluster: Cluster) -> None:
    error = await refused(cluster, "pods", {"apiVersion": "v2", "metadata": {"name": "a"}})
    assert "the API version in the data (v2) does not match the expected API version (v1)" in error.message


async def test_pods_need_their_service_account(cluster: Cluster, pod: Json) -> None:
    pod["spec"]["serviceAccountName"] = "nobody"
    error = await refused(cluster, "pods", pod)
    assert error.code == 403
    assert 'serviceaccount "nobody" not found' in error.message


async def test_owner_references_are_complete(cluster: Cluster) -> None:
    meta = {"name": "c", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}
    error = await refused(cluster, "configmaps", {"metadata": meta})
    assert 'metadata.ownerReferences[0].uid: Invalid value: "": must not be empty' in error.message
