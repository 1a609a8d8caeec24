"""Rules for where data comes from and where an adapter goes; tuning and inference adapters share them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from include.contracts.dataset_links import page_fault
from include.contracts.dataset_urls import check_url
from include.contracts.image_reference import InvalidReference, parse_reference
from include.contracts.network_policy import NetworkPolicy, Refused
from include.contracts.redaction import redact_url
from include.workspace.api.models import DataDestination, DataSource
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Context, secret_name_fault

#: What examples have in the place of what only their reader knows.
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*_HERE\b")
#: Kinds of volumes that need no setting: to read data or an adapter from, and to keep an adapter on.
DATA_VOLUMES = ("persistentVolumeClaim", "configMap", "emptyDir")
KEPT_VOLUMES = ("persistentVolumeClaim", "emptyDir")


def source_faults(context: Context, path: str, source: DataSource) -> Iterator[Fault]:
    """U5, U6, U7 and F4: exactly one kind of source, and that one usable."""
    given = [
        name
        for name, value in (
            ("urls", source.urls),
            ("image", source.image),
            ("volumeSource", source.volume_source),
        )
        if value or (name == "volumeSource" and value is not None)
    ]
    if len(given) != 1:
        message = f"it has {' and '.join(given)}" if given else "it has none"
        yield Fault(path, None, "U5", f"needs exactly one of urls, image and volumeSource; {message}")
    for index, url in enumerate(source.urls or ()):
        yield from url_faults(f"{path}.urls[{index}]", url, context.policy.network)
    if source.image and (left := PLACEHOLDER.findall(source.image)):
        yield _not_filled_in(f"{path}.image", source.image, "U6", left)
    elif source.image:
        yield from image_faults(context, f"{path}.image", source.image, "U6")
    if source.volume_source is not None:
        allowed = (*DATA_VOLUMES, *context.policy.allowed_volume_sources)
        yield from volume_faults(f"{path}.volumeSource", source.volume_source, allowed)
    for index, secret in enumerate(source.image_pull_secrets or ()):
        yield from secret_name_fault(f"{path}.imagePullSecrets[{index}]", secret, "F5")


def _not_filled_in(path: str, image: str, rule: str, left: Sequence[str]) -> Fault:
    message = f"still has the example's {' and '.join(left)}"
    hint = "put your registry and repository there, such as myregistry.azurecr.io/phi-3-adapter:0.0.1"
    return Fault(path, redact_url(image), rule, message, hint)


def destination_faults(context: Context, path: str, output: DataDestination) -> Iterator[Fault]:
    """U8, U9, U10, F4, F5: exactly one destination, and one that can be pushed to."""
    if bool(output.image) == (output.volume_source is not None):
        sentence = "it has both" if output.image else "it has neither"
        yield Fault(path, None, "U8", f"needs exactly one of image and volumeSource; {sentence}")
    if output.image and (left := PLACEHOLDER.findall(output.image)):
        yield _not_filled_in(f"{path}.image", output.image, "U9", left)
    elif output.image:
        yield from image_faults(context, f"{path}.image", output.image, "U9", pushed=True)
    if output.image and not output.image_push_secret:
        hint = "name a kubernetes.io/dockerconfigjson secret of the Workspace's namespace"
        yield Fault(f"{path}.imagePushSecret", None, "U10", "is required to push output.image", hint)
    if output.image_push_secret and PLACEHOLDER.fullmatch(output.image_push_secret):
        hint = "name your own: kubectl create secret docker-registry NAME --docker-server=... makes one"
        yield Fault(f"{path}.imagePushSecret", output.image_push_secret, "F5", "is the example's", hint)
    elif output.image_push_secret:
        yield from secret_name_fault(f"{path}.imagePushSecret", output.image_push_secret, "F5")
    if output.volume_source is not None:
        allowed = (*KEPT_VOLUMES, *context.policy.allowed_volume_sources)
        yield from volume_faults(f"{path}.volumeSource", output.volume_source, allowed)


#: Kinds of volume that name an object, and where.
_NAMED_VOLUMES = {"persistentVolumeClaim": "claimName", "configMap": "name"}


def url_faults(path: str, url: str, network: NetworkPolicy) -> Iterator[Fault]:
    """U7: a dataset URL that the pods would refuse, as far as its text says."""
    try:
        check_url(network, url)
    except Refused as refused:
        yield Fault(path, redact_url(url), "U7", str(refused), refused.hint)
        return
    if told := page_fault(url):
        yield Fault(path, redact_url(url), "U7", *told)


def image_faults(context: Context, path: str, image: str, rule: str, pushed: bool = False) -> Iterator[Fault]:
    """A reference that cannot be parsed, or leads inside; one with a digest where something is pushed."""
    try:
        reference = parse_reference(image)
    except InvalidReference as error:
        shown, told = redact_url(image), f"is not an image reference: {error}"
        yield Fault(path, shown, rule, told, "write registry/repository:tag")
        return
    try:
        context.policy.network.check_registry(reference)
    except Refused as refused:
        yield Fault(path, image, rule, str(refused), refused.hint)
    if pushed and reference.digest:
        hint = "write registry/repository:tag; the digest is known after the push"
        yield Fault(path, image, rule, "names a digest, but nothing can be pushed to a digest", hint)


def volume_faults(path: str, volume: Mapping[str, Any], allowed: Collection[str]) -> Iterator[Fault]:
    """F4, F33, F62: a volume source names one kind of volume that is allowed here, and never the node's own disk.

    A run mounts it with the rights of Airflow's account, so that a Secret or a share that its author may not read would
    end in the data, and with it in the adapter.
    """
    from include.workspace.validation.pod_fields import volume_source_faults

    kinds = [key for key in volume if key != "name"]
    if len(kinds) != 1:
        hint = "for example persistentVolumeClaim: {claimName: my-data}"
        yield Fault(path, sorted(map(str, volume)), "F4", "must name exactly one kind of volume", hint)
    elif kinds == ["hostPath"]:
        hint = "use a persistentVolumeClaim"
        yield Fault(path, None, "F4", "hostPath would open the node's disk to the pod and is refused", hint)
    elif kinds[0] not in allowed:
        hint = f"use {' or '.join(allowed)}; others need the setting [kaito] allowed_volume_sources"
        yield Fault(f"{path}.{kinds[0]}", None, "F33", "is a kind of volume that is not allowed here", hint)
    elif key := _NAMED_VOLUMES.get(kinds[0]):
        given = volume[kinds[0]]
        name = given.get(key) if isinstance(given, Mapping) else None
        bad_name = secret_name_fault(f"{path}.{kinds[0]}.{key}", str(name or ""), "F4")
        yield from bad_name or volume_source_faults(volume, path)
    else:
        yield from volume_source_faults(volume, path)
