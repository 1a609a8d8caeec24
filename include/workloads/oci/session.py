"""A registry client as the pod's environment says: DOCKER_CONFIG for the secret, INSECURE_REGISTRIES for plain http."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from include.contracts.addresses import is_public
from include.contracts.image_reference import ImageReference, InvalidReference, parse_reference
from include.contracts.network_policy import Refused
from include.contracts.redaction import redact_url
from include.workloads.contract import UserConfigError
from include.workloads.network import AddressPolicy, network_policy, system_resolve
from include.workloads.oci.credentials import load_credentials
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.transport import TooBig


def read_reference(text: str) -> ImageReference:
    """An image reference out of the request; UserConfigError says which part is wrong."""
    try:
        return parse_reference(text)
    except InvalidReference as error:
        raise UserConfigError(f"{redact_url(text)!r} is not an image reference: {error}.") from None


def connect(reference: ImageReference, anonymous: bool = False) -> RegistryClient:
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
    credentials = None if anonymous else load_credentials(Path(folder) if folder else None, reference)
    insecure = reference.registry in policy.registries
    return RegistryClient(reference, credentials, insecure, addresses=AddressPolicy(policy, registry=True))


def is_inside(reference: ImageReference) -> bool:
    """Whether a registry is inside the cluster's network: vouched for by its administrator, or at private addresses."""
    if reference.registry in network_policy().registries:
        return True
    place = urlsplit(f"//{reference.api_host}")
    try:
        found = system_resolve(place.hostname or "", place.port or 443)
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    except (OSError, ValueError):
        return False
    return bool(addresses) and not any(is_public(address) for address in addresses)


def anonymous_can_read(reference: ImageReference) -> bool:
    """Whether the registry shows what is in this repository to whoever asks without a password."""
    client = connect(reference, anonymous=True)
    try:
        answer = client.call("GET", f"{client.base}/tags/list", ok=(200, 400, 401, 403, 404, 405))
    except TooBig:
        return True
    except UserConfigError:
        return False
    return answer.status == 200
