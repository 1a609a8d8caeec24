"""Whether the adapter could be pushed, before a machine is bought to make it: the preflight tries the push Secret.

The Secret's content goes to the registry that the Workspace names and nowhere else. What cannot be asked from here
(a registry that only the cluster reaches, a Secret that Airflow may not read) is told and stops nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from include.contracts.image_reference import ImageReference, InvalidReference, parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.workspace import Fault, Workspace
from kaito.controller.references import DOCKER_CONFIG, Found
from kaito.hooks.api import SECRET
from kaito.tasks.docker_config import docker_config

RULE = "P10"
IMAGE, PUSH_SECRET = "tuning.output.image", "tuning.output.imagePushSecret"
log = logging.getLogger(__name__)


def faults(
    workspace: Workspace,
    found: Found,
    policy: NetworkPolicy,
    stands: Callable[[str, str], bool] = lambda _name, _namespace: True,
) -> list[Fault]:
    """Return a fault when the registry of the output image would refuse the push, or the tag is another Workspace's.

    :param found: the Secrets that the Workspace names, as ``references.look_up`` gives them.
    :param stands: whether there is a Workspace of this name and namespace; a tag of one that is gone is free.
    """
    from include.workloads.contract import UserConfigError
    from include.workloads.oci.asking import Unanswered
    from include.workloads.oci.trial import PushRefused, published_by, try_push

    asked = _asked(workspace, found)
    if asked is None:
        return []
    reference, name, text = asked
    try:
        from include.workloads.oci.credentials import credentials_in

        credentials = credentials_in(text, reference)
        try_push(reference, credentials, policy)
    except UserConfigError as error:  # of the Secret's text
        return [Fault(PUSH_SECRET, name, RULE, str(error).rstrip("."))]
    except PushRefused as refused:
        return [Fault(PUSH_SECRET, name, RULE, str(refused))]
    except Unanswered as error:
        log.warning(
            "The push to %s could not be tried: %s. If the pods do not reach it either, the run fails after its "
            "training. ([kaito] check_push = false leaves this question out.)",
            reference.name,
            error,
        )
    else:
        log.info("The registry %s would take a push to %s.", reference.registry, reference.repository)
        return _taken(workspace, reference, published_by(reference, credentials, policy), stands)
    return []


def _taken(
    workspace: Workspace, reference: ImageReference, holder: str, stands: Callable[[str, str], bool]
) -> list[Fault]:
    """P11: a push would take the tag from a Workspace whose status says that its adapter is there."""
    space, _, name = holder.partition("/")
    if not name or holder == f"{workspace.namespace}/{workspace.name}" or not stands(name, space):
        return []
    told = f"the tag holds the adapter of Workspace {holder}, and a push would take it away from there"
    return [Fault(IMAGE, str(reference), "P11", told, "choose another tag, or delete that Workspace")]


def _asked(workspace: Workspace, found: Found) -> tuple[ImageReference, str, str] | None:
    """Where to push, with which Secret and what is in it; None where there is nothing to ask or no way to."""
    output = workspace.tuning.output if workspace.tuning else None
    name = output.image_push_secret if output else None
    if output is None or not output.image or not name:
        return None
    secret = found.get((SECRET.plural, name))
    if secret is None or secret.get("type") != DOCKER_CONFIG:
        return None
    try:
        return parse_reference(output.image), name, docker_config(secret)
    except InvalidReference:
        return None
