"""What a Workspace names and the cluster must have: Secrets of registries and services, ConfigMaps, and BYO nodes.

Which ones they are and what is wrong with them is decided here without I/O, so that the first task of a run and the
reconciler cannot disagree. Of a Secret only its type and its keys are looked at, never its contents.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from include.catalog import machine_from_labels
from include.contracts.dataset_keys import keys_of
from include.contracts.dataset_urls import scheme_of
from include.contracts.methods import Objective
from include.contracts.yaml_documents import reader as documents
from include.pools.byo import own_nodes, unclaimed
from include.reconcile.mended import SECRETS
from include.retraining.checking import policy_faults
from include.retraining.policy import KEY as POLICY_KEY
from include.workspace import Fault, Workspace, byo_faults
from include.workspace.api import access, names
from include.workspace.validation.identity import is_namespace, is_object_name
from include.workspace.validation.inference_config import KEY as INFERENCE_KEY
from include.workspace.validation.inference_config import check_inference_config
from include.workspace.validation.inference_config import config_notices as inference_notices
from include.workspace.validation.training_config import KEY, check_training_config, config_notices
from kaito.hooks.api import CONFIG_MAP, NODE, SECRET, ClusterError, Kind
from kaito.lookup import token_in
from kaito.settings import policy

if TYPE_CHECKING:
    from include.catalog import Catalog, Machine
    from include.workspace import Policy

log = logging.getLogger(__name__)

DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"

Object = Mapping[str, Any]


class Reads(Protocol):
    """What is asked of a cluster here: ``ClusterCalls`` has it, and a cache of its answers."""

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """Return one object, or None when there is none of that name."""

    async def list(self, kind: Kind) -> list[dict[str, Any]]:
        """Return all objects of a kind."""


@dataclass(frozen=True)
class Reference:
    """A place in a Workspace that names an object of its namespace.

    ``key`` is what it must have, or one of ``others`` instead; ``rule`` the rule that says so, where it is a Secret's
    own.
    """

    kind: Kind
    path: str
    name: str
    key: str = ""
    others: tuple[str, ...] = ()
    rule: str = ""

    @property
    def which(self) -> tuple[str, str]:
        return self.kind.plural, self.name


#: Where the list of all nodes stands among what was found, on an installation whose nodes are BYO (bring your own).
NODES = (NODE.plural, "")
#: What was found, by (plural, name): the object, None where there is none. A missing entry could not be looked at.
Found = Mapping[tuple[str, str], Object | None]


def references(document: Object) -> list[Reference]:
    """Return what a Workspace names, in the order of its sections. Reads documents of any shape.

    What cannot be a name is left out: the rules say so, and nothing is looked up for it.
    """
    tuning, inference = _mapping(document.get("tuning")), _mapping(document.get("inference"))
    push = _mapping(tuning.get("output")).get("imagePushSecret")
    found = [Reference(SECRET, "tuning.output.imagePushSecret", str(push))] if is_object_name(push) else []
    notes = _mapping(_mapping(document.get("metadata")).get("annotations"))
    secrets = _pull_secrets(tuning, inference, names.MODEL_IMAGE in notes)
    found += [Reference(SECRET, path, name) for path, name in secrets]
    if is_object_name(named := notes.get(names.API_KEY)) and named != access.NONE:
        found.append(Reference(SECRET, f"metadata.annotations[{names.API_KEY}]", str(named), access.KEY))
    if is_object_name(named := notes.get(names.DATASET_CREDENTIALS)):
        found += _dataset_keys(str(named), _mapping(tuning.get("input")).get("urls"))
    if tuning and is_object_name(named := notes.get(names.TRACKING)):
        path, (key, *others) = f"metadata.annotations[{names.TRACKING}]", access.TRACKERS
        found.append(Reference(SECRET, path, str(named), key, tuple(others), "P52"))
    if tuning and is_object_name(named := notes.get(names.SIGNING)):
        path = f"metadata.annotations[{names.SIGNING}]"
        found.append(Reference(SECRET, path, str(named), access.SIGNING_KEY, rule="P61"))
    for section, part, key in (("tuning", tuning, KEY), ("inference", inference, INFERENCE_KEY)):
        if is_object_name(part.get("config")):
            found.append(Reference(CONFIG_MAP, f"{section}.config", part["config"], key))
    if is_object_name(named := notes.get(names.RETRAIN_POLICY)):
        found.append(
            Reference(CONFIG_MAP, f"metadata.annotations[{names.RETRAIN_POLICY}]", str(named), POLICY_KEY)
        )
    return found


def faults(
    document: Object,
    found: Found,
    workspace: Workspace | None,
    catalog: Catalog,
    admitted: Policy | None = None,
) -> list[Fault]:
    """Return a fault for each reference that leads to nothing, to the wrong thing, or to a wrong configuration.

    :param workspace: the document as it was read, None when it could not be: then no content is judged.
    :param catalog: the models and machines that configurations are judged by.
    :param admitted: what the installation admits; None: as its settings are now, which takes a millisecond to read.
    """
    namespace = names.namespace(document) if _mapping(document.get("metadata")) else "default"
    told = [
        fault
        for reference in references(document)
        if reference.which in found
        for fault in _faults(reference, found[reference.which], namespace, workspace, catalog)
    ]
    if NODES in found and workspace is not None and (own := (admitted or policy()).of(workspace)).byo:
        listed = found[NODES]
        nodes = None if listed is None else unclaimed(listed["items"])
        told += byo_faults(workspace, nodes, catalog, own)
    return told


def versions(document: Object, found: Found) -> dict[str, str]:
    """Return the versions of the Secrets that a Workspace names, as `status.inputs` has them.

    By the API server's count, never by content: a digest of a password is a step towards it.
    """
    told = {}
    for reference in references(document):
        if reference.kind is SECRET and reference.which in found:
            metadata = (found[reference.which] or {}).get("metadata") or {}
            version = f"{metadata.get('uid')}.{metadata.get('resourceVersion')}" if metadata else "absent"
            told[f"{SECRETS}{reference.name}"] = version
    return told


def own_machine(found: Found, workspace: Workspace) -> Machine | None:
    """Return what the BYO nodes are for a Workspace, by their labels; None where none were.

    :raises NodeLabelsIncomplete: the labels do not say it (for a preset, `faults` says so before).
    """
    listed = found.get(NODES)
    if listed is None or not policy().of(workspace).byo:
        return None
    nodes = own_nodes(workspace, listed["items"])
    return machine_from_labels(nodes[0]["metadata"].get("labels") or {}) if nodes else None


def notices(document: Object, found: Found) -> list[str]:
    """Return sentences about what the configurations that a Workspace names hold in vain."""
    told: list[str] = []
    notes = _mapping(_mapping(document.get("metadata")).get("annotations"))
    if notes.get(names.RUNTIME) == "transformers" and not document.get("tuning"):
        return told  # the file has no effect at all: a notice of the Workspace says so
    for reference in references(document):
        text = ((found.get(reference.which) or {}).get("data") or {}).get(reference.key)
        if reference.key in (KEY, INFERENCE_KEY) and isinstance(text, str):
            objective = str(notes.get(names.TUNING_OBJECTIVE) or Objective.SFT).strip().lower()
            judged = config_notices(text, objective) if reference.key == KEY else inference_notices(text)
            told += [f"ConfigMap {reference.name}: {notice}" for notice in judged]
    return told


def _faults(
    reference: Reference, seen: Object | None, namespace: str, workspace: Workspace | None, catalog: Catalog
) -> Iterator[Fault]:
    path, name, kind = reference.path, reference.name, reference.kind.name
    rule, hint = _remedy(reference, namespace)
    if seen is None:
        yield Fault(path, name, rule, f"there is no such {kind} in namespace {namespace}", hint)
    elif reference.kind is SECRET and not reference.key:
        if seen.get("type") != DOCKER_CONFIG:
            told = f"the Secret's type is {seen.get('type')}, not {DOCKER_CONFIG}"
            yield Fault(path, name, rule, told, hint)
    elif (text := _held(reference, seen)) is None:
        keys = " and no key ".join((reference.key, *reference.others))
        yield Fault(path, name, rule, f"the {kind} has no key {keys}", hint)
    elif workspace is not None and reference.key == KEY:
        yield from check_training_config(workspace, text, catalog)
    elif workspace is not None and reference.key == INFERENCE_KEY:
        yield from check_inference_config(workspace, text, catalog)
    elif reference.key == POLICY_KEY:
        yield from (
            replace(one, path=f"{path}: {one.path}" if one.path else path) for one in policy_faults(text)
        )


def _remedy(reference: Reference, namespace: str) -> tuple[str, str]:
    """The rule that a reference keeps, and the command that makes what it names."""
    where = f"{reference.name} -n {namespace}"
    if reference.kind is SECRET and reference.key:
        return (
            reference.rule or "P41",
            f"kubectl create secret generic {where} --from-literal={reference.key}=...",
        )
    if reference.kind is SECRET:
        return "P4", f"kubectl create secret docker-registry {where} --docker-server=..."
    return "P5", f"kubectl create configmap {where} --from-file={reference.key}"


def user_config(document: Object, found: Found) -> dict[str, Any]:
    """Return the parsed configuration that the Workspace names; empty when it names none or it cannot be read."""
    for reference in references(document):
        if reference.key not in (KEY, INFERENCE_KEY):
            continue
        return parsed(((found.get(reference.which) or {}).get("data") or {}).get(reference.key))
    return {}


def parsed(text: object) -> dict[str, Any]:
    """Return the mapping that a configuration's text holds; empty where it holds none, which `faults` tells."""
    try:
        loaded = documents.load_one(text) if isinstance(text, str) else None
    except documents.BadDocument:
        loaded = None
    return dict(loaded) if isinstance(loaded, Mapping) else {}


def hub_secret(document: Object) -> str | None:
    """Return the name of the Secret whose token opens the preset's model on the hub."""
    part = _mapping(document.get("tuning")) or _mapping(document.get("inference"))
    name = _mapping(_mapping(part.get("preset")).get("presetOptions")).get("modelAccessSecret")
    return str(name) if is_object_name(name) else None


async def hub_token(cluster: Reads, document: Object, namespace: str) -> str | None:
    """Return the token of that Secret, for one question to the hub; it must go no further."""
    name = hub_secret(document)
    if name is None or not is_namespace(namespace):
        return None
    try:
        return token_in(await cluster.find(SECRET, name, namespace))
    except ClusterError as error:
        if error.status != 403:
            raise
        log.info("May not read Secret %s (%s); asking the hub without a token.", name, error)
        return None


async def look_up(
    cluster: Reads, document: Object, namespace: str, admitted: Policy | None = None
) -> dict[tuple[str, str], Object | None]:
    """Find what a Workspace names; ``admitted`` as :func:`faults` takes it."""
    found: dict[tuple[str, str], Object | None] = {}
    for reference in _readable(document, namespace):
        try:
            found[reference.which] = await cluster.find(reference.kind, reference.name, namespace)
        except ClusterError as error:
            _may_not(reference, error)
    if (admitted or policy()).may_bring_nodes(document):
        try:
            found[NODES] = {"items": await cluster.list(NODE)}
        except ClusterError as error:
            _may_not_list_nodes(error)
            found[NODES] = None
    return found


def _may_not_list_nodes(error: ClusterError) -> None:
    """Nodes that we may not list are a fault of the installation, told as such; anything else is an error."""
    if error.status != 403:
        raise error
    log.warning("May not list nodes, which is needed where they are BYO: %s", error)


def _may_not(reference: Reference, error: ClusterError) -> None:
    """A Secret that we may not read is no fault; anything else that goes wrong is an error."""
    if error.status != 403 or reference.kind is not SECRET:
        raise error
    log.info("May not read Secret %s (%s); the pod that needs it will tell.", reference.name, error)


def _readable(document: Object, namespace: str) -> Iterable[Reference]:
    """What is looked up, each once; nothing where the namespace cannot be one."""
    found = references(document) if is_namespace(namespace) else []
    return {reference.which: reference for reference in found}.values()


def _held(reference: Reference, seen: Object) -> Any:
    data = seen.get("data") or {}
    return next((data[key] for key in (reference.key, *reference.others) if key in data), None)


def _dataset_keys(secret: str, urls: object) -> list[Reference]:
    """What the Secret of a private dataset must have for its URLs."""
    path = f"metadata.annotations[{names.DATASET_CREDENTIALS}]"
    schemes = [scheme_of(url) for url in urls if isinstance(url, str)] if isinstance(urls, list) else [""]
    found: list[Reference] = []
    for keys in map(keys_of, dict.fromkeys(schemes)):
        found += [Reference(SECRET, path, secret, key, rule="P49") for key in keys.required]
        if keys.one_of:
            found.append(Reference(SECRET, path, secret, keys.one_of[0], keys.one_of[1:], "P49"))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _pull_secrets(tuning: Object, inference: Object, takes_model_image: bool) -> list[tuple[str, str]]:
    """Secrets of images that are read. A preset's count with a model image only: KAITO ignores them without one."""
    sources = [("tuning.input", _mapping(tuning.get("input")))]
    adapters = inference.get("adapters")
    for index, adapter in enumerate(adapters if isinstance(adapters, list) else []):
        sources.append((f"inference.adapters[{index}].source", _mapping(_mapping(adapter).get("source"))))
    if takes_model_image:
        for section, part in (("tuning", tuning), ("inference", inference)):
            options = _mapping(_mapping(part.get("preset")).get("presetOptions"))
            sources.append((f"{section}.preset.presetOptions", options))
    return [
        (f"{path}.imagePullSecrets[{index}]", secret)
        for path, source in sources
        for index, secret in enumerate(source.get("imagePullSecrets") or [])
        if is_object_name(secret)
    ]
