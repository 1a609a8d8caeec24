"""A model's files as a container image: one pod on a CPU node, which goes on where an earlier try of it ended."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from include.catalog import Model
from include.contracts.exit_codes import USER_EXIT_CODES
from include.contracts.image_reference import InvalidReference, parse_reference
from include.contracts.network_policy import Refused
from include.manifests.packaging import Packaging, package_pod
from include.workspace.validation import identity
from kaito.hooks.api import SECRET
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.lookup import look_up, token_in
from kaito.params import packaging_params
from kaito.run_conf import conf_faults, refuse
from kaito.settings import connection_id, manifest_settings, network, policy

if TYPE_CHECKING:
    from airflow.sdk import Context

START_SECONDS = 1800


class PackageModelOperator(KubernetesPodOperator):
    """Packages what the run's form says and returns the image's digest.

    A pod's result is its termination message; its exit code decides whether another try can help.
    """

    template_fields = ("kubernetes_conn_id",)
    BASE_CONTAINER_NAME = "weights"

    def __init__(self, **kwargs: Any) -> None:
        settings: dict[str, Any] = {
            "kubernetes_conn_id": connection_id(),
            "deferrable": True,
            "poll_interval": 5,
            "logging_interval": 10,
            "schedule_timeout_seconds": START_SECONDS,
            "startup_timeout_seconds": START_SECONDS,
            "container_name_log_prefix_enabled": False,
            "random_name_suffix": False,
            "log_pod_spec_on_failure": False,
        }
        super().__init__(**{**settings, **kwargs})
        self._ended: Any = None

    @cached_property
    def cluster(self) -> KaitoClusterHook:
        """The cluster of the task's connection."""
        return KaitoClusterHook(conn_id=self.kubernetes_conn_id)

    def execute(self, context: Context) -> Any:
        params = context["params"]
        refuse(conf_faults(context["dag_run"].conf or {}, packaging_params()))
        wanted = self.wanted(params)
        manifest = package_pod(wanted, manifest_settings(), pod_name(wanted))
        self.log.info("Packaging %s as %s", wanted.model.hf_id, wanted.image)
        self.pod_template_dict, self.namespace = manifest, wanted.namespace
        return self._judged(lambda: super(PackageModelOperator, self).execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        result = self._judged(lambda: super(PackageModelOperator, self).trigger_reentry(context, event))
        context["ti"].xcom_push(key="return_value", value=result)
        return result

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """Keep how the container ended: the provider deletes the pod now."""
        statuses = (remote_pod.status.container_statuses if remote_pod and remote_pod.status else None) or []
        self._ended = next((one.state.terminated for one in statuses if one.state), None)
        super().cleanup(pod, remote_pod, *args, **kwargs)

    def wanted(self, params: Mapping[str, Any]) -> Packaging:
        """Return what a form asks for.

        :raises AirflowFailException: with all that is wrong in it.
        """
        given = {key: str(params.get(key) or "").strip() for key in packaging_params() if key != "private"}
        refuse([f"{key}: is required" for key in ("model", "registry") if not given[key]])
        namespace = given["namespace"] or "default"
        faults = [str(one) for one in identity.namespace_faults(namespace, policy().allowed_namespaces)]
        for key in ("push_secret", "hub_secret", "claim"):
            if given[key] and not identity.is_object_name(given[key]):
                faults.append(f"{key}: {given[key]!r} is not a possible name of a Kubernetes object")
        folder = posixpath.normpath(given["folder"]) if given["folder"] else ""
        if folder.startswith(("/", "..")):
            faults.append(f"folder: {given['folder']!r} must be a path inside the claim")
        refuse(faults)
        wanted = Packaging(
            self._model(given["model"], given["hub_secret"], namespace),
            given["registry"],
            given["tag"],
            namespace,
            given["push_secret"],
            given["hub_secret"],
            given["claim"],
            folder,
            given["licence"],
            bool(params.get("private")),
        )
        refuse(_image_faults(wanted))
        return wanted

    def _model(self, name: str, secret: str, namespace: str) -> Model:
        def token() -> str | None:
            return token_in(self.cluster.find(SECRET, secret, namespace)) if secret else None

        found = look_up({"inference": {"preset": {"name": name}}}, token)
        if found.fault is not None and found.transient:
            raise AirflowException(str(found.fault))
        if found.fault is not None or not found.catalog.has_model(name):
            refuse([f"model: {found.fault or f'{name!r} is no preset and no model of the hub'}"])
        return found.catalog.model(name)

    def _judged(self, run: Any) -> dict[str, Any]:
        """Run the provider's part and return the pod's result, or raise what its end means."""
        failure: Exception | None = None
        try:
            run()
        except TaskDeferred:
            raise
        except Exception as error:  # judged with the container's own words
            failure = error
        left = _parse(getattr(self._ended, "message", None))
        code = getattr(self._ended, "exit_code", None)
        if code == 0:
            self.log.info("%s", left.get("reference"))
            return left
        if code is not None:
            told = left.get("error") or f"{self.task_id}: the container ended with exit code {code}"
            raise (AirflowFailException if code in USER_EXIT_CODES else AirflowException)(told) from None
        raise failure or AirflowException(f"{self.task_id}: the pod was gone before its result could be read")


def pod_name(wanted: Packaging) -> str:
    """Return the name of the pod: the same for the same work, so that a try goes on with an earlier one's pod."""
    digest = hashlib.sha256(f"{wanted.image} {wanted.claim} {wanted.folder}".encode()).hexdigest()[:8]
    return f"package-{wanted.model.name[:40].rstrip('-.').replace('.', '-')}-{digest}"


def _image_faults(wanted: Packaging) -> list[str]:
    try:
        reference = parse_reference(wanted.image)
        network().check_registry(reference)
    except InvalidReference as error:
        return [f"registry, tag: {wanted.image!r} is not an image reference: {error}"]
    except Refused as refused:
        return [f"registry: {refused}; {refused.hint}"]
    return []


def _parse(message: str | None) -> dict[str, Any]:
    try:
        found = json.loads(message or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
