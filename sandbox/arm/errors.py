"""Refusals in Azure Resource Manager's shape: `{"error": {"code", "message", "target", "details"}}`.

The codes and their HTTP statuses are Azure's; the sentences say the same as Azure's. Nothing here decides when.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

PENDING = "See https://aka.ms/aks-pending-operation for more details"


class ArmError(Exception):
    """A refusal. `retry_after` is in seconds; `failure_cause` says whether the gateway or the service refused."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        failure_cause: str = "service",
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.headers = {"x-ms-failure-cause": failure_cause, **(headers or {})}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def detail(self) -> Json:
        """The inner object, as operations and a failed pool's status carry it too."""
        result: Json = {"code": self.code, "message": self.message, "details": []}
        return result if self.target is None else {**result, "target": self.target}

    def body(self) -> Json:
        return {"error": self.detail()}


def gateway(status: int, code: str, message: str, **rest: Any) -> ArmError:
    """A refusal by Resource Manager itself, before any resource provider has seen the request."""
    return ArmError(status, code, message, failure_cause="gateway", **rest)


def unauthenticated(code: str, message: str) -> ArmError:
    challenge = (
        'Bearer authorization_uri="https://login.windows.net/", error="invalid_token", '
        f'error_description="{message}"'
    )
    return gateway(401, code, message, headers={"WWW-Authenticate": challenge})


def forbidden(action: str, scope: str, who: str = "sandbox") -> ArmError:
    message = (
        f"The client '{who}' with object id '{who}' does not have authorization to perform action '{action}' over "
        f"scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    )
    return gateway(403, "AuthorizationFailed", message)


def throttled(seconds: int, what: str) -> ArmError:
    message = f"The request is being throttled as the limit has been reached for operation type - {what}."
    return gateway(429, "TooManyRequests", message, retry_after=seconds)


def missing_api_version() -> ArmError:
    message = "The api-version query parameter (?api-version=) is required for all requests."
    return gateway(400, "MissingApiVersionParameter", message)


def invalid_api_version(given: str, supported: tuple[str, ...]) -> ArmError:
    message = f"The api-version '{given}' is invalid. The supported versions are '{','.join(supported)}'."
    return gateway(400, "InvalidApiVersionParameter", message)


def subscription_not_found(subscription: str) -> ArmError:
    return gateway(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")


def invalid_subscription(subscription: str) -> ArmError:
    message = (
        f"The provided subscription identifier '{subscription}' is malformed or invalid."  # it must be a UUID
    )
    return gateway(400, "InvalidSubscriptionId", message)


def group_not_found(group: str) -> ArmError:
    return gateway(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")


def resource_not_found(resource: str, group: str) -> ArmError:
    message = (
        f"The Resource '{resource}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix"
    )
    return gateway(404, "ResourceNotFound", message)


def pool_not_found(pool: str) -> ArmError:
    return ArmError(
        404, "AgentPoolNotFound", f"Could not find the agent pool {pool}.", target="agentPoolName"
    )


def parent_not_found(group: str, cluster: str, verb: str) -> ArmError:
    parent = f"/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}"
    message = (
        f"Failed to perform '{verb}' on resource(s) of type 'managedClusters/agentPools', because the parent resource "
        f"'{parent}' could not be found."
    )
    return gateway(404, "ParentResourceNotFound", message)


def no_such_route(path: str) -> ArmError:
    return gateway(
        404, "InvalidResourceType", f"The resource type could not be found in the namespace of '{path}'."
    )


def method_not_allowed(method: str) -> ArmError:
    return gateway(405, "HttpMethodNotAllowed", f"The HTTP method '{method}' is not supported at this scope.")


def invalid_content(why: str) -> ArmError:
    message = f"The request content was invalid and could not be deserialized: '{why}'."
    return gateway(400, "InvalidRequestContent", message)


def unmarshal(why: str) -> ArmError:
    return ArmError(400, "UnmarshalError", f"UnmarshalEntity encountered error: json: {why}.")


def invalid_parameter(field: str, why: str) -> ArmError:
    message = f"The value of parameter {field} is invalid. Error details: {why}."
    return ArmError(400, "InvalidParameter", message, target=field)


def change_not_allowed(field: str) -> ArmError:
    message = f"Changing property '{field}' is not allowed."
    return ArmError(400, "PropertyChangeNotAllowed", message, target=field)


def precondition_failed(given: str, have: str | None) -> ArmError:
    now = f"the resource's eTag is '{have}'" if have else "the resource does not exist"
    return ArmError(412, "PreconditionFailed", f"The condition '{given}' of the request is not met: {now}.")


def operation_in_progress(pool: str, state: str) -> ArmError:
    message = (
        f"Operation is not allowed: Another agentpool operation ({pool} - {state}) is in progress, please wait for "
        f"it to finish before starting a new operation. {PENDING}"
    )
    return ArmError(409, "OperationNotAllowed", message)


def nothing_to_abort(pool: str) -> ArmError:
    return ArmError(
        409, "OperationNotAllowed", f"Operation is not allowed: agent pool {pool} has no operation to abort."
    )


def insufficient_quota(location: str, family: str, wanted: int, left: int, message: str = "") -> ArmError:
    text = message or (
        f"Insufficient vcpu quota requested {wanted}, remaining {left} for family {family} for region {location}."
    )
    return ArmError(400, "ErrCode_InsufficientVCPUQuota", text)


def sku_not_available(instance_type: str, location: str, zone: str, message: str = "") -> ArmError:
    where = f"location '{location}'" + (f" zone '{zone}'" if zone else "")
    text = message or (
        f"The requested VM size for resource '{instance_type}' is currently not available in {where}. Please try "
        "another size or deploy to a different location or different zone. See https://aka.ms/azureskunotavailable "
        "for details."
    )
    return ArmError(409, "SkuNotAvailable", text)


def allocation_failed(instance_type: str, zone: str, message: str = "") -> ArmError:
    if zone:
        text = message or (
            "Allocation failed. We do not have sufficient capacity for the requested VM size "
            f"{instance_type} in zone {zone}. Read more about improving likelihood of allocation success at "
            "http://aka.ms/allocation-guidance"
        )
        return ArmError(409, "ZonalAllocationFailed", text)
    text = message or (
        f"Allocation failed. We do not have sufficient capacity for the requested VM size {instance_type} in this "
        "region. Read more about improving likelihood of allocation success at http://aka.ms/allocation-guidance"
    )
    return ArmError(409, "AllocationFailed", text)


def size_not_allowed(pool: str, location: str) -> ArmError:
    message = (
        f"The VM size of AgentPoolProfile:{pool} is not allowed in your subscription in location '{location}'. "
        "For more details, please visit https://aka.ms/cpu-quota"
    )
    return ArmError(400, "BadRequest", message)
