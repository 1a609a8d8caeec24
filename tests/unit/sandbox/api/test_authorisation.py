"""Who may do what in the sandbox's cluster, by RBAC rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.api.cluster import Cluster
from sandbox.api.errors import ApiError
from sandbox.api.http.authentication import ADMIN_GROUPS, Tokens, User
from sandbox.api.http.authorisation import Attributes, allowed, need

ACCOUNT = User("system:serviceaccount:ml:airflow", ("system:serviceaccounts", "system:authenticated"))
OTHER = User("system:serviceaccount:other:airflow", ("system:authenticated",))
READ = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}
OURS = Path(__file__).parents[4] / "presets" / "rbac"


async def grant(cluster: Cluster, *rules: dict[str, Any], namespace: str | None = None) -> None:
    """Bind rules to the account: in a namespace, or everywhere."""
    role, binding = ("Role", "RoleBinding") if namespace else ("ClusterRole", "ClusterRoleBinding")
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "test"}}
    await cluster.create(
        f"{role.lower()}s.rbac.authorization.k8s.io", {**head, "kind": role, "rules": list(rules)}, namespace
    )
    subject = {"kind": "ServiceAccount", "name": "airflow", "namespace": "ml"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "test"}
    bound = {**head, "kind": binding, "subjects": [subject], "roleRef": reference}
    await cluster.create(f"{binding.lower()}s.rbac.authorization.k8s.io", bound, namespace)


async def test_nobody_may_anything_without_a_rule_but_masters(cluster: Cluster) -> None:
    wish = Attributes("get", "", "pods", "default", "a")
    assert not allowed(cluster, ACCOUNT, wish)
    assert allowed(cluster, User("root", ADMIN_GROUPS), wish)
    assert allowed(cluster, ACCOUNT, Attributes("create", "authorization.k8s.io", "selfsubjectaccessreviews"))


@pytest.mark.parametrize(
    ("wish", "granted"),
    [
        (Attributes("get", "", "pods", "default", "a"), True),
        (Attributes("get", "", "pods/log", "default", "a"), True),
        (Attributes("list", "", "pods"), True),
        (Attributes("watch", "", "pods"), False),
        (Attributes("get", "", "pods/exec", "default", "a"), False),
        (Attributes("get", "apps", "pods", "default", "a"), False),
        (Attributes("get", "", "secrets", "default", "a"), False),
    ],
)
async def test_a_rule_grants_its_verbs_on_its_resources(
    cluster: Cluster, wish: Attributes, granted: bool
) -> None:
    await grant(cluster, READ)
    assert allowed(cluster, ACCOUNT, wish) is granted
    assert not allowed(cluster, OTHER, wish)


async def test_a_role_holds_in_its_namespace_only(cluster: Cluster) -> None:
    await grant(cluster, READ, namespace="default")
    assert allowed(cluster, ACCOUNT, Attributes("get", "", "pods", "default", "a"))
    assert not allowed(cluster, ACCOUNT, Attributes("get", "", "pods", "kube-system", "a"))
    assert not allowed(cluster, ACCOUNT, Attributes("list", "", "pods"))


async def test_a_rule_may_name_its_objects(cluster: Cluster) -> None:
    await grant(cluster, {**READ, "resources": ["secrets"], "resourceNames": ["push"]})
    assert allowed(cluster, ACCOUNT, Attributes("get", "", "secrets", "default", "push"))
    assert not allowed(cluster, ACCOUNT, Attributes("get", "", "secrets", "default", "other"))
    assert not allowed(cluster, ACCOUNT, Attributes("list", "", "secrets", "default"))


async def test_a_refusal_says_who_may_not_do_what_where(cluster: Cluster) -> None:
    with pytest.raises(ApiError) as refused:
        need(cluster, ACCOUNT, Attributes("delete", "apps", "statefulsets", "default", "web"))
    assert refused.value.code == 403
    assert str(refused.value.status()["message"]) == (
        'statefulsets.apps "web" is forbidden: User "system:serviceaccount:ml:airflow" cannot delete resource '
        '"statefulsets" in API group "apps" in the namespace "default"'
    )


def test_an_issued_token_holds_after_a_restart_and_for_nobody_else() -> None:
    token = Tokens({"root-token": "root"}).issue("ml", "airflow", "u1")
    again = Tokens({"root-token": "root"}).user(token)
    assert again is not None
    assert (again.name, again.uid) == ("system:serviceaccount:ml:airflow", "u1")
    assert "system:masters" not in again.groups
    assert Tokens({"another": "root"}).user(token) is None
    head, _, signature = token.partition(".")
    assert Tokens({"root-token": "root"}).user(f"{head[:-2]}xx.{signature}") is None
    assert Tokens({"root-token": "root"}).user("sandbox-.") is None


def ours(*files: str) -> list[dict[str, Any]]:
    return [document for file in files for document in yaml.safe_load_all((OURS / file).read_text())]


async def granted_to_airflow(cluster: Cluster, *files: str) -> None:
    for document in ours(*files):
        group = document["apiVersion"].rpartition("/")[0]
        plural = f"{document['kind'].lower()}s" + (f".{group}" if group else "")
        await cluster.create(plural, document, document["metadata"].get("namespace"))


DEFAULT = ("kaito-airflow.yaml", "namespaces.yaml")
EVERYWHERE = ("kaito-airflow.yaml", "options/all-namespaces.yaml")
AIRFLOW = User("system:serviceaccount:kaito-system:kaito-airflow", ("system:authenticated",))
LEASES = ("coordination.k8s.io", "leases", "kaito-system")


def test_what_airflow_may_do_has_no_wildcard_and_lists_no_secrets() -> None:
    files = [str(path.relative_to(OURS)) for path in OURS.rglob("*.yaml")]
    assert sorted(files) == sorted({*DEFAULT, *EVERYWHERE})
    rules = [rule for document in ours(*files) for rule in document.get("rules", [])]
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["apiGroups"] + rule["resources"]]
    assert [rule["verbs"] for rule in rules if "secrets" in rule["resources"]] == [["get", "create"]]
    never = {"pods/exec", "pods/attach", "clusterroles", "serviceaccounts/token"}
    assert not never & {resource for rule in rules for resource in rule["resources"]}
    read_only = [rule for rule in rules if {"persistentvolumes", "storageclasses"} & set(rule["resources"])]
    assert len(read_only) == 2
    assert not {verb for rule in read_only for verb in rule["verbs"]} - {"get", "list"}


@pytest.mark.parametrize(
    ("wish", "by_default", "everywhere"),
    [
        (Attributes("create", "", "pods", "default"), True, True),
        (Attributes("create", "", "pods", "team-b"), False, True),
        (Attributes("create", "", "pods", "kube-system"), False, True),
        (Attributes("get", "", "secrets", "default", "push"), True, True),
        (Attributes("get", "", "secrets", "kube-system", "token"), False, True),
        (Attributes("list", "", "secrets", "default"), False, False),
        (Attributes("patch", "", "services", "team-b", "payments"), False, True),
        (Attributes("get", "", "pods/proxy", "kube-system", "p"), False, True),
        (Attributes("delete", "kaito.sh", "workspaces", "team-b", "w"), False, True),
        (Attributes("patch", "kaito.sh", "workspaces/status", "default", "w"), True, True),
        (Attributes("watch", "kaito.sh", "workspaces"), True, True),
        (Attributes("watch", "", "events", "default"), True, True),
        (Attributes("list", "", "events"), True, True),
        (Attributes("create", "karpenter.sh", "nodeclaims"), True, True),
        (Attributes("update", *LEASES, "kaito-airflow-reconciler"), True, True),
        (Attributes("create", *LEASES), True, True),
        (Attributes("update", *LEASES, "of-somebody-else"), False, False),
        (Attributes("get", *LEASES, "of-somebody-else"), False, False),
        (
            Attributes("update", "coordination.k8s.io", "leases", "kube-system", "kube-scheduler"),
            False,
            False,
        ),
    ],
)
async def test_where_airflow_may_do_what(
    cluster: Cluster, wish: Attributes, by_default: bool, everywhere: bool
) -> None:
    await granted_to_airflow(cluster, *DEFAULT)
    assert allowed(cluster, AIRFLOW, wish) is by_default
    await granted_to_airflow(cluster, EVERYWHERE[1])
    assert allowed(cluster, AIRFLOW, wish) is everywhere
