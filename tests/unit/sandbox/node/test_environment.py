"""A container's environment."""

from __future__ import annotations

import pytest

from sandbox.node.environment import (
    ConfigProblem,
    EnvironmentBuilder,
    expand,
    field_value,
    resource_value,
)


@pytest.mark.parametrize(
    ("text", "result"),
    [("$(A)/$(B)", "1/$(B)"), ("$$(A)", "$(A)"), ("$A ${A}", "$A ${A}"), ("$$$(A)", "$1"), ("", "")],
)
def test_expand(text, result):
    assert expand(text, {"A": "1"}) == result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "ws-0"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['apps.kubernetes.io/pod-index']", "0"),
        ("metadata.labels['missing']", ""),
        ("metadata.annotations['note']", "hello"),
        ("metadata.labels", 'app="ws"\napps.kubernetes.io/pod-index="0"'),
        ("spec.nodeName", "node-a"),
        ("status.podIP", "127.64.0.7"),
        ("status.hostIP", "127.0.0.1"),
    ],
)
def test_fields(pod, path, value):
    assert field_value(pod, path) == value


def test_an_unknown_field_is_a_problem_not_an_empty_text(pod):
    with pytest.raises(ConfigProblem, match="unsupported fieldPath"):
        field_value(pod, "spec.x")


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ({"resource": "limits.memory"}, str(2**30)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "1024"),
        ({"resource": "limits.cpu"}, "1"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "500"),
        ({"resource": "limits.ephemeral-storage"}, "7"),
        ({"resource": "requests.memory"}, "0"),
    ],
)
def test_resources(pod, reference, value):
    node = {"status": {"allocatable": {"ephemeral-storage": "7"}}}
    assert resource_value(pod, pod["spec"]["containers"][0], reference, node) == value


@pytest.fixture
async def builder(cluster, pod):
    await cluster.create("configmaps", {"metadata": {"name": "cm"}, "data": {"a": "1", "b": "2"}}, "default")
    await cluster.create("secrets", {"metadata": {"name": "sec"}, "stringData": {"token": "t0"}}, "default")
    return EnvironmentBuilder(cluster, pod)


async def test_sources_are_read_in_order_and_later_ones_win(builder):
    container = {
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "S_", "secretRef": {"name": "sec"}}],
        "env": [
            {"name": "b", "value": "own"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "http://$(IP)/$(a)"},
            {"name": "T", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
        ],
    }
    env = await builder.build(container, {"PATH": "/bin", "a": "image"})
    assert env == {
        "PATH": "/bin",
        "HOSTNAME": "ws-0",
        "a": "1",
        "b": "own",
        "S_token": "t0",
        "IP": "127.64.0.7",
        "URL": "http://127.64.0.7/1",
        "T": "t0",
    }


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "no"}}]}, 'configmap "no" not found'),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, 'secret "no" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "z"}}}]},
            "couldn't find key z in ConfigMap default/cm",
        ),
    ],
)
async def test_what_is_missing_is_named_as_the_kubelet_names_it(builder, container, message):
    with pytest.raises(ConfigProblem, match=message):
        await builder.build(container, {})


@pytest.mark.parametrize(
    "container",
    [
        {"envFrom": [{"secretRef": {"name": "no", "optional": True}}]},
        {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}}]},
        {
            "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "z", "optional": True}}}
            ]
        },
    ],
)
async def test_what_is_optional_may_be_missing(builder, container):
    assert await builder.build(container, {}) == {"HOSTNAME": "ws-0"}
