"""Request bodies in Kubernetes' protobuf form, which kubectl's typed commands (`create secret`, `auth`) insist on.

Types come from the OpenAPI definitions; only the field numbers are added here, for the messages that such commands
send. A field without a known number is refused by name of its message, never dropped. Answers are always JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sandbox.api.errors import ApiError, bad_request
from sandbox.api.kinds.types import Type, built_in, definitions

Json = dict[str, Any]

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field names in the order of their numbers, from 1; `-` is a number that is not in use. Keys are the definition's last
# part, with the group before it where a name is used twice.
_FIELDS = {
    "ObjectMeta": (
        "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp "
        "deletionGracePeriodSeconds labels annotations ownerReferences finalizers - - managedFields"
    ),
    "OwnerReference": "kind - name uid apiVersion controller blockOwnerDeletion",
    "DeleteOptions": "gracePeriodSeconds preconditions orphanDependents propagationPolicy dryRun",
    "Preconditions": "uid resourceVersion",
    "LabelSelector": "matchLabels matchExpressions",
    "LabelSelectorRequirement": "key operator values",
    "Namespace": "metadata spec status",
    "NamespaceSpec": "finalizers",
    "NamespaceStatus": "phase conditions",
    "ConfigMap": "metadata data binaryData immutable",
    "Secret": "metadata data type stringData immutable",
    "ServiceAccount": "metadata secrets imagePullSecrets automountServiceAccountToken",
    "LocalObjectReference": "name",
    "ObjectReference": "kind namespace name uid apiVersion resourceVersion fieldPath",
    "Binding": "metadata target",
    "ResourceQuota": "metadata spec status",
    "ResourceQuotaSpec": "hard scopes scopeSelector",
    "ResourceQuotaStatus": "hard used",
    "Service": "metadata spec status",
    "ServiceSpec": (
        "ports selector clusterIP type externalIPs - sessionAffinity loadBalancerIP loadBalancerSourceRanges "
        "externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses sessionAffinityConfig - - "
        "ipFamilyPolicy clusterIPs ipFamilies allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy "
        "trafficDistribution"
    ),
    "ServicePort": "name protocol port targetPort nodePort appProtocol",
    "ServiceStatus": "loadBalancer conditions",
    "LoadBalancerStatus": "ingress",
    "Pod": "metadata spec status",
    "PodTemplateSpec": "metadata spec",
    "PodSpec": (
        "volumes containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector "
        "serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC securityContext imagePullSecrets "
        "hostname subdomain affinity schedulerName initContainers automountServiceAccountToken tolerations "
        "hostAliases priorityClassName priority dnsConfig shareProcessNamespace readinessGates runtimeClassName "
        "enableServiceLinks preemptionPolicy overhead topologySpreadConstraints ephemeralContainers setHostnameAsFQDN "
        "os hostUsers schedulingGates resourceClaims resources"
    ),
    "Container": (
        "name image command args workingDir ports env resources volumeMounts livenessProbe readinessProbe lifecycle "
        "terminationMessagePath imagePullPolicy securityContext stdin stdinOnce tty envFrom terminationMessagePolicy "
        "volumeDevices startupProbe resizePolicy restartPolicy"
    ),
    "ContainerPort": "name hostPort containerPort protocol hostIP",
    "EnvVar": "name value valueFrom",
    "ResourceRequirements": "limits requests claims",
    "PodSecurityContext": (
        "seLinuxOptions runAsUser runAsNonRoot supplementalGroups fsGroup runAsGroup sysctls windowsOptions "
        "fsGroupChangePolicy seccompProfile"
    ),
    "Toleration": "key operator value effect tolerationSeconds",
    "Deployment": "metadata spec status",
    "DeploymentSpec": (
        "replicas selector template strategy minReadySeconds revisionHistoryLimit paused - progressDeadlineSeconds"
    ),
    "DeploymentStrategy": "type rollingUpdate",
    "DeploymentStatus": (
        "observedGeneration replicas updatedReplicas availableReplicas unavailableReplicas conditions readyReplicas "
        "collisionCount terminatingReplicas"
    ),
    "Job": "metadata spec status",
    "JobSpec": (
        "parallelism completions activeDeadlineSeconds selector manualSelector template backoffLimit "
        "ttlSecondsAfterFinished completionMode suspend podFailurePolicy backoffLimitPerIndex maxFailedIndexes "
        "podReplacementPolicy managedBy successPolicy"
    ),
    "JobStatus": (
        "conditions startTime completionTime active succeeded failed completedIndexes uncountedTerminatedPods ready "
        "failedIndexes terminating"
    ),
    "CronJob": "metadata spec status",
    "CronJobSpec": (
        "schedule startingDeadlineSeconds concurrencyPolicy suspend jobTemplate successfulJobsHistoryLimit "
        "failedJobsHistoryLimit timeZone"
    ),
    "CronJobStatus": "active - - lastScheduleTime lastSuccessfulTime",
    "JobTemplateSpec": "metadata spec",
    "Role": "metadata rules",
    "ClusterRole": "metadata rules aggregationRule",
    "PolicyRule": "verbs apiGroups resources resourceNames nonResourceURLs",
    "RoleBinding": "metadata subjects roleRef",
    "ClusterRoleBinding": "metadata subjects roleRef",
    "Subject": "kind apiGroup name namespace",
    "RoleRef": "apiGroup kind name",
    "PriorityClass": "metadata value globalDefault description preemptionPolicy",
    "PodDisruptionBudget": "metadata spec status",
    "PodDisruptionBudgetSpec": "minAvailable selector maxUnavailable unhealthyPodEvictionPolicy",
    "PodDisruptionBudgetStatus": (
        "observedGeneration disruptedPods disruptionsAllowed currentHealthy desiredHealthy expectedPods conditions"
    ),
    "Eviction": "metadata deleteOptions",
    "Scale": "metadata spec status",
    "ScaleSpec": "replicas",
    "ScaleStatus": "replicas selector",
    "TokenRequest": "metadata spec status",
    "TokenRequestSpec": "audiences - boundObjectRef expirationSeconds",
    "TokenRequestStatus": "token expirationTimestamp",
    "BoundObjectReference": "kind apiVersion name uid",
    "TokenReview": "metadata spec status",
    "TokenReviewSpec": "token audiences",
    "TokenReviewStatus": "authenticated user error audiences",
    "SelfSubjectReview": "metadata status",
    "SelfSubjectReviewStatus": "userInfo",
    "UserInfo": "username uid groups extra",
    "SelfSubjectAccessReview": "metadata spec status",
    "SelfSubjectAccessReviewSpec": "resourceAttributes nonResourceAttributes",
    "SelfSubjectRulesReview": "metadata spec status",
    "SelfSubjectRulesReviewSpec": "namespace",
    "SubjectRulesReviewStatus": "resourceRules nonResourceRules incomplete evaluationError",
    "SubjectAccessReviewStatus": "allowed reason evaluationError denied",
    "ResourceAttributes": "namespace verb group version resource subresource name fieldSelector labelSelector",
    "NonResourceAttributes": "path verb",
}

_OTHER_DEFINITIONS = {
    ("v1", "DeleteOptions"): "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    ("policy/v1", "Eviction"): "io.k8s.api.policy.v1.Eviction",
    ("autoscaling/v1", "Scale"): "io.k8s.api.autoscaling.v1.Scale",
    ("authentication.k8s.io/v1", "TokenRequest"): "io.k8s.api.authentication.v1.TokenRequest",
}


def decode(raw: bytes) -> Json:
    """The object in an envelope of magic, type and message; raises ApiError (400, 415)."""
    if not raw.startswith(MAGIC):
        raise bad_request("the body is not in Kubernetes' protobuf form: its first bytes are not k8s\\x00")
    try:
        envelope = {number: value for number, value in _parts(raw[len(MAGIC) :])}
        names = {number: bytes(value).decode() for number, value in _parts(bytes(envelope[1]))}
        api_version, kind = names.get(1, ""), names.get(2, "")
        obj = _message(built_in(_definition(api_version, kind)), bytes(envelope.get(2, b"")))
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise bad_request(f"the protobuf body cannot be decoded: {error!r}") from error
    return {"apiVersion": api_version, "kind": kind, **obj}


def _definition(api_version: str, kind: str) -> str:
    if name := _OTHER_DEFINITIONS.get((api_version, kind)):
        return name
    group, _, version = api_version.rpartition("/")
    name = f"io.k8s.api.{group.split('.')[0] or 'core'}.{version}.{kind}"
    if name not in definitions():
        raise _unsupported(f"{api_version} {kind}")
    return name


def _unsupported(what: str) -> ApiError:
    message = f"the sandbox cannot read {what} in protobuf; send JSON or YAML (kubectl create -f does)"
    return ApiError(415, "UnsupportedMediaType", message)


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


def _parts(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message as (number, integer or bytes)."""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _varint(raw, position)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            length, position = _varint(raw, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise IndexError(f"wire type {wire}")
        yield tag >> 3, raw[position : position + length]
        position += length


def _message(type_: Type, raw: bytes) -> Json:
    short = type_.name.rsplit(".", 1)[-1]
    obj: Json = {}
    for number, value in _parts(raw):
        names = _FIELDS.get(short, "").split()
        if number > len(names) or names[number - 1] == "-":
            raise _unsupported(f"field {number} of {short}")
        name = names[number - 1]
        _set(obj, name, type_.field(name), value)
    return obj


def _set(obj: Json, name: str, type_: Type, value: int | bytes) -> None:
    if type_.kind == "list":
        obj.setdefault(name, []).append(_value(type_.element, value))
    elif type_.kind == "map":
        pair = dict(_parts(bytes(value)))
        key = bytes(pair.get(1, b"")).decode()
        obj.setdefault(name, {})[key] = _value(type_.element, pair.get(2, b""))
    else:
        result = _value(type_, value)
        if result not in ("", None, {}) or type_.kind == "struct":
            obj[name] = result


def _value(type_: Type, value: int | bytes) -> Any:
    if isinstance(value, int):
        if type_.scalar == "boolean":
            return bool(value)
        return value - (1 << 64) if value >= 1 << 63 else value
    if type_.scalar == "time":
        return _time(value)
    if type_.scalar == "quantity":
        return bytes(dict(_parts(value)).get(1, b"0")).decode()
    if type_.scalar == "intorstring":
        parts = dict(_parts(value))
        return bytes(parts.get(3, b"")).decode() if parts.get(1) else parts.get(2, 0)
    if type_.scalar == "string":
        return base64.b64encode(value).decode() if type_.schema.get("format") == "byte" else value.decode()
    return _message(type_, value)


def _time(raw: bytes) -> str | None:
    seconds = dict(_parts(raw)).get(1)
    if not isinstance(seconds, int) or seconds >= 1 << 63:  # Go's zero time, which means unset
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
