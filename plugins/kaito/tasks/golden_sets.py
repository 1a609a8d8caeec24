"""Brings a golden set from where a policy says that it lies: a ConfigMap, a URL, or an image.

It is small, so it is read here, before anything is paid for, behind the same walls as a dataset: each address is
checked and pinned, each redirect anew, and a private one's header goes to its own host alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.contracts import golden_set
from include.contracts.dataset_keys import keys_of
from include.contracts.dataset_urls import scheme_of
from include.contracts.evaluation_policy import GoldenSource
from include.contracts.image_reference import parse_reference
from include.contracts.yaml_documents.reader import MAX_BYTES
from kaito.hooks.api import CONFIG_MAP, SECRET
from kaito.tasks.docker_config import docker_config
from kaito.tasks.private_hosts import network_policy, value_in

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import KaitoClusterHook

SECONDS = 30.0


class GoldenSetNotRead(ValueError):
    """A golden set that cannot be had, whoever asks again; str() is the end of a sentence about it."""


def text_of(cluster: KaitoClusterHook, source: GoldenSource, namespace: str) -> str | bytes | None:
    """Return the text of a golden set; None where its ConfigMap, or the key in it, is not there.

    :param namespace: of the policy's Workspace, where its ConfigMap and Secret are.
    :raises GoldenSetNotRead: it is not there, not to be had, or too big.
    :raises RuntimeError: whoever has it does not answer for now.
    """
    if source.config_map:
        found = cluster.find(CONFIG_MAP, source.config_map, namespace) or {}
        text = (found.get("data") or {}).get(golden_set.KEY)
        return None if text is None else str(text)
    secret: dict[str, Any] | None = None
    if source.secret and (secret := cluster.find(SECRET, source.secret, namespace)) is None:
        raise GoldenSetNotRead(f"names the Secret {source.secret}, which is not in namespace {namespace}")
    return _at_url(source, secret) if source.url else _in_image(source, secret)


def _at_url(source: GoldenSource, secret: dict[str, Any] | None) -> bytes:
    from include.workloads.contract import TryAgain, UserConfigError, UserDataError
    from include.workloads.dataset.connection import PassingFault, PinnedClient
    from include.workloads.dataset.credentials import Credentials
    from include.workloads.dataset.store_client import StoreClient
    from include.workloads.deadline import Deadline
    from include.workloads.network import AddressPolicy

    url, held = str(source.url), secret or {}
    client = PinnedClient(AddressPolicy(network_policy()), read_seconds=SECONDS, header_seconds=SECONDS)
    try:
        credentials = Credentials.of([url], lambda key: value_in(held, key))
        if secret and not credentials.values:
            keys = ", ".join(keys_of(scheme_of(url)).all)
            raise GoldenSetNotRead(f"names the Secret {source.secret}, which has none of the keys {keys}")
        opener = StoreClient.of(client, credentials)
        with Deadline(SECONDS) as deadline, opener.open(url, {}) as answer:
            content = answer.read(MAX_BYTES + 1)
        if deadline.expired:
            raise PassingFault(f"not all of it came within {SECONDS:.0f} s")
    except (UserConfigError, UserDataError) as error:
        raise GoldenSetNotRead(f"cannot be read: {error}") from None
    except (PassingFault, TryAgain, OSError) as error:
        raise RuntimeError(f"The golden set at {source.url} cannot be read for now: {error}") from None
    if len(content) > MAX_BYTES:
        raise GoldenSetNotRead(f"has more than {MAX_BYTES} bytes, which is the most for a golden set")
    return bytes(content)


def _in_image(source: GoldenSource, secret: dict[str, Any] | None) -> bytes:
    from include.workloads.contract import UserConfigError
    from include.workloads.oci.asking import NotToBeHad, Unanswered
    from include.workloads.oci.credentials import credentials_in
    from include.workloads.oci.small_files import read_file

    reference = parse_reference(str(source.image))
    try:
        given = credentials_in(docker_config(secret), reference) if secret else None
        return read_file(reference, given, network_policy(), golden_set.KEY, MAX_BYTES)
    except (NotToBeHad, UserConfigError) as error:
        raise GoldenSetNotRead(f"cannot be read: {error}") from None
    except Unanswered as error:
        raise RuntimeError(f"The golden set in {source.image} cannot be read for now: {error}") from None
