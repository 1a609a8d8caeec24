"""A registry client as the pod's environment says: DOCKER_CONFIG for the secret, INSECURE_REGISTRIES for plain http."""

from __future__ import annotations

import os
from pathlib import Path

from include.contracts.image_reference import ImageReference, InvalidReference, parse_reference
from include.contracts.network_policy import Refused
from include.contracts.redaction import redact_url
from include.workloads.contract import UserConfigError
from include.workloads.network import AddressPolicy, network_policy
from include.workloads.oci.credentials import load_credentials
from include.workloads.oci.registry import RegistryClient


def read_reference(text: str) -> ImageReference:
    """An image reference out of the request; UserConfigError says which part is wrong."""
    try:
        return parse_reference(text)
    except InvalidReference as error:
        raise UserConfigError(f"{redact_url(text)!r} is not an image reference: {error}.") from None


def connect(reference: ImageReference) -> RegistryClient:
    """A client for the reference's registry and repository; nothing is sent yet.

    UserConfigError when the registry is one that must not be connected to.
    """
    policy = network_policy()
    try:
        policy.check_registry(reference)
    except Refused as refused:
        hint = f"; {refused.hint}" if refused.hint else ""
        raise UserConfigError(f"The image {reference} cannot be used: {refused}{hint}.") from None
    folder = os.environ.get("DOCKER_CONFIG", "").strip()
    credentials = load_credentials(Path(folder) if folder else None, reference)
    insecure = reference.registry in policy.registries
    return RegistryClient(reference, credentials, insecure, addresses=AddressPolicy(policy, registry=True))
