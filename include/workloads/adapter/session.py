"""A registry client as the pod's environment says: DOCKER_CONFIG for the secret, INSECURE_REGISTRIES for plain http."""

from __future__ import annotations

import os
from pathlib import Path

from include.workloads.adapter.credentials import load_credentials
from include.workloads.adapter.reference import Reference
from include.workloads.adapter.registry import RegistryClient
from include.workloads.contract import comma_list


def connect(reference: Reference) -> RegistryClient:
    """A client for the reference's registry and repository; nothing is sent yet."""
    folder = os.environ.get("DOCKER_CONFIG", "").strip()
    credentials = load_credentials(Path(folder) if folder else None, reference)
    insecure = reference.registry in comma_list("INSECURE_REGISTRIES")
    return RegistryClient(reference, credentials, insecure)
