"""The table of strategies: which defaults, preparations and checks belong to which built-in kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.api.crd import definitions
from sandbox.api.kinds.defaults import (
    pods,
    services,
    storage,
    workloads,
)
from sandbox.api.kinds.strategy import Site, Strategy
from sandbox.api.kinds.validation import config as config_rules
from sandbox.api.kinds.validation import pods as pod_rules
from sandbox.api.kinds.validation import services as service_rules
from sandbox.api.kinds.validation import storage as storage_rules
from sandbox.api.kinds.validation import workloads as workload_rules
from sandbox.api.meta import PV_PROTECTION, PVC_PROTECTION

Json = dict[str, Any]

PLAIN = Strategy()


def _alone(prepare: Callable[[Json], None]) -> Callable[[Json, Site], None]:
    """A preparation that asks nothing of the cluster."""
    return lambda obj, _site: prepare(obj)


def _admit_pod(obj: Json, site: Site) -> None:
    pods.admit_pod(obj)
    pod_rules.check_service_account(obj, site)


_PATH_NAMES = Strategy(name_rule="path", creates_on_update=True)

STRATEGIES: dict[str, Strategy] = {
    definitions.KEY: Strategy(
        default=definitions.default, validate=definitions.faults, unconditional_update=False
    ),
    "pods": Strategy(
        default=pods.pod,
        prepare_create=_admit_pod,
        validate=pod_rules.pod_faults,
        validate_update=pod_rules.pod_update_faults,
        returns_deleted=True,
    ),
    "services": Strategy(
        default=services.service,
        prepare_create=services.admit_service,
        prepare_update=services.keep_addresses,
        validate=service_rules.service_faults,
        validate_update=service_rules.service_update_faults,
        name_rule="dns1035",
        returns_deleted=True,
    ),
    "namespaces": Strategy(
        default=storage.namespace, prepare_create=_alone(storage.admit_namespace), name_rule="label"
    ),
    "secrets": Strategy(
        default=storage.secret,
        validate=config_rules.secret_faults,
        validate_update=config_rules.secret_update_faults,
    ),
    "configmaps": Strategy(
        validate=config_rules.config_map_faults, validate_update=config_rules.config_map_update_faults
    ),
    "limitranges": Strategy(default=storage.limit_range),
    "resourcequotas": Strategy(initial_status={}),
    "serviceaccounts": Strategy(returns_deleted=True),
    "persistentvolumeclaims": Strategy(
        default=storage.claim,
        prepare_create=storage.admit_claim,
        validate=storage_rules.claim_faults,
        validate_update=storage_rules.claim_update_faults,
        finalizers=(PVC_PROTECTION,),
        returns_deleted=True,
    ),
    "persistentvolumes": Strategy(
        default=storage.volume,
        validate=storage_rules.volume_faults,
        initial_status={"phase": "Pending"},
        finalizers=(PV_PROTECTION,),
        returns_deleted=True,
    ),
    "storageclasses.storage.k8s.io": Strategy(
        default=storage.storage_class,
        validate=storage_rules.class_faults,
        validate_update=storage_rules.class_update_faults,
    ),
    "deployments.apps": Strategy(
        default=workloads.deployment,
        validate=workload_rules.deployment_faults,
        validate_update=workload_rules.selector_update_faults,
        initial_status={},
        generation_annotations=True,
    ),
    "replicasets.apps": Strategy(
        default=workloads.replica_set,
        validate=workload_rules.deployment_faults,
        validate_update=workload_rules.selector_update_faults,
        initial_status={"replicas": 0},
    ),
    "statefulsets.apps": Strategy(
        default=workloads.stateful_set,
        validate=workload_rules.deployment_faults,
        validate_update=workload_rules.stateful_set_update_faults,
        initial_status={"replicas": 0, "availableReplicas": 0},
    ),
    "daemonsets.apps": Strategy(
        default=workloads.daemon_set,
        validate=workload_rules.deployment_faults,
        validate_update=workload_rules.selector_update_faults,
        initial_status={
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        },
    ),
    "jobs.batch": Strategy(
        default=workloads.job,
        prepare_create=_alone(workloads.admit_job),
        validate=workload_rules.job_faults,
        validate_update=workload_rules.job_update_faults,
        initial_status={},
        default_propagation="Orphan",
    ),
    "cronjobs.batch": Strategy(default=workloads.cron_job, initial_status={}),
    "events": Strategy(creates_on_update=True),
    "endpoints": Strategy(creates_on_update=True),
    "leases.coordination.k8s.io": Strategy(unconditional_update=False, creates_on_update=True),
    "roles.rbac.authorization.k8s.io": _PATH_NAMES,
    "rolebindings.rbac.authorization.k8s.io": _PATH_NAMES,
    "clusterroles.rbac.authorization.k8s.io": _PATH_NAMES,
    "clusterrolebindings.rbac.authorization.k8s.io": _PATH_NAMES,
}


def strategy_of(key: str) -> Strategy:
    return STRATEGIES.get(key, PLAIN)
