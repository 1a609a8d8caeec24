"""The janitor's look into registries: versions of adapters that nobody keeps are reported, and deleted where asked.

Only tags that a retraining has made are looked at, and only images that say so themselves. It deletes nothing by
default. A registry that cannot be asked, or refuses, is told of and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.janitor import retention
from include.janitor.retention import Kept
from include.workspace.api import names
from include.workspace.validation.identity import namespace_allowed
from kaito import settings
from kaito.hooks.api import CONTROLLER_REVISION, SECRET, STATEFUL_SET, WORKSPACE, ClusterError
from kaito.params import janitor_params
from kaito.run_conf import conf_faults, refuse
from kaito.settings import manifest_settings
from kaito.tasks.base import WorkspaceTask
from kaito.tasks.docker_config import docker_config

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.workloads.oci.listing import Listing

#: Whatever of ours may name a digest.
REFERRING = (WORKSPACE, STATEFUL_SET, CONTROLLER_REVISION)
#: Other tags of a repository that are compared with what may go.
MOST_TAGS = 500
REASON = "its Workspace keeps it no longer, and nothing here names its digest"


@dataclass(frozen=True)
class Old:
    """A version that may go."""

    workspace: Mapping[str, Any]
    version: str
    tag: str
    digest: str


class RetireVersionsOperator(WorkspaceTask, BaseOperator):
    """Finds versions in registries that their Workspaces have let go of.

    The run's param ``delete`` goes before the setting ``[kaito] janitor_delete``.

    :returns: ``{"delete", "found": [{"workspace", "version", "image", "deleted"}], "unanswered": [...]}``
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("retries", 0)  # the next sweep is the next attempt
        super().__init__(**kwargs)
        self.troubles: list[str] = []

    def execute(self, context: Context) -> dict[str, Any]:
        refuse(conf_faults(context["dag_run"].conf or {}, janitor_params()))
        asked = context["params"].get("delete")
        delete = settings.janitor_deletes() if asked is None else bool(asked)
        workspaces = self.cluster.list(WORKSPACE)
        mine = self._retrained(workspaces)
        if not mine:
            raise AirflowSkipException("No Workspace has versions of a retraining.")
        found = [old for one, stays in mine for old in self._look(one, stays)]
        in_use = self._in_use() if found else frozenset()
        old = [one for one in found if one.digest not in in_use]
        rows = [self._retire(one, delete=delete) for one in old]
        if not delete and rows:
            self.log.info("Dry run: start with delete, or set [kaito] janitor_delete.")
        return {"delete": delete, "found": rows, "unanswered": self.troubles}

    def _retrained(self, workspaces: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Kept]]:
        """The Workspaces that have versions, each with what must stay of them."""
        children: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for one in workspaces:
            if parent := (one["metadata"].get("labels") or {}).get(names.RETRAIN_OF):
                children.setdefault((names.namespace(one), parent), []).append(one)
        result = []
        for one in workspaces:
            key = (names.namespace(one), one["metadata"]["name"])
            stays = retention.kept(one, children.get(key, ()))
            going = one["metadata"].get("deletionTimestamp")
            if stays and not going and namespace_allowed(key[0], settings.policy().allowed_namespaces):
                result.append((one, stays))
        return result

    def _look(self, workspace: Mapping[str, Any], stays: Kept) -> list[Old]:
        from include.workloads.contract import UserConfigError
        from include.workloads.oci.asking import Unanswered
        from include.workloads.oci.listing import Refused

        try:
            repository = self._repository(workspace, stays)
            every = repository.tags()
            tags = retention.expired(stays, every)
            found = [
                Old(workspace, version, tag, digest)
                for tag, version in tags.items()
                if (digest := self._ours(repository, stays, tag, version))
            ]
            named = (
                self._named_otherwise(repository, [tag for tag in every if tag not in tags]) if found else ()
            )
            return [old for old in found if old.digest not in named]
        except (Refused, Unanswered, UserConfigError, ClusterError) as error:
            self._trouble(stays, error)
            return []

    def _ours(self, repository: Listing, stays: Kept, tag: str, version: str) -> str | None:
        """The digest of a version, None where the image does not say that our candidate has made it."""
        from include.workloads.oci.trial import WORKSPACE_ANNOTATION

        digest = repository.digest(tag)
        notes = (repository.manifest(digest) or {}).get("annotations") if digest else None
        said = (notes or {}).get(WORKSPACE_ANNOTATION) if isinstance(notes, Mapping) else None
        return digest if said == retention.publisher(stays, version) else None

    def _named_otherwise(self, repository: Listing, tags: Sequence[str]) -> frozenset[str]:
        """The digests that other tags hold: to delete one of them would take somebody's tag away."""
        from include.workloads.oci.listing import Refused
        from include.workloads.oci.media import stands_beside

        tags = [tag for tag in tags if not stands_beside(tag)]  # what stands there is no version
        if len(tags) > MOST_TAGS:
            raise Refused(f"{len(tags)} other tags are more than can be compared ({MOST_TAGS})")
        return frozenset(digest for tag in tags if (digest := repository.digest(tag)))

    def _repository(self, workspace: Mapping[str, Any], stays: Kept) -> Listing:
        from include.workloads.oci.credentials import credentials_in
        from include.workloads.oci.listing import Listing

        reference = parse_reference(stays.image)
        name = workspace["tuning"]["output"].get("imagePushSecret")
        secret = self.cluster.find(SECRET, name, names.namespace(workspace)) if name else None
        text = docker_config(secret) if secret else ""
        known = manifest_settings()
        policy = NetworkPolicy.of(known.allowed_networks, known.insecure_registries)
        return Listing(reference, credentials_in(text, reference) if text else None, policy)

    def _in_use(self) -> frozenset[str]:
        """Every digest that something of ours names. What cannot be listed is in use: nothing goes then."""
        return retention.referred_to(one for kind in REFERRING for one in self.cluster.list(kind))

    def _retire(self, one: Old, *, delete: bool) -> dict[str, Any]:
        from include.workloads.oci.asking import Unanswered
        from include.workloads.oci.listing import Refused

        name = f"{names.namespace(one.workspace)}/{one.workspace['metadata']['name']}"
        stays = retention.kept(one.workspace, ())
        image = f"{parse_reference(stays.image).name}:{one.tag}" if stays else one.tag
        row = {"workspace": name, "version": one.version, "image": image, "deleted": False}
        self.log.info("%s (%s) of %s: %s.", image, one.digest[:19], name, REASON)
        if not delete or stays is None:
            return row
        try:
            self._delete(self._repository(one.workspace, stays), one.digest)
        except (Refused, Unanswered) as error:
            self._trouble(stays, error)
            return row
        return {**row, "deleted": True}

    def _delete(self, repository: Listing, digest: str) -> None:
        """The image, and what refers to it where that is kept under a tag: reports, and what cosign made."""
        from include.workloads.oci.media import COSIGN_KINDS, cosign_tag

        for kind in COSIGN_KINDS:
            if signed := repository.digest(cosign_tag(digest, kind)):
                repository.forget(signed)
        beside = digest.replace(":", "-")
        for referrer in (repository.manifest(beside) or {}).get("manifests") or ():
            repository.forget(str(referrer["digest"]))
        if listed := repository.digest(beside):
            repository.forget(listed)
        repository.forget(digest)

    def _trouble(self, stays: Kept, error: Exception) -> None:
        message = f"{stays.workspace}: {error}"
        self.troubles.append(message)
        self.log.warning("Not looked at, or not deleted: %s", message)
