"""The first task of every run: is this Workspace possible, all of it, before anything exists or costs money.

Every fault is found and reported at once: the document's, the catalogue's, and the cluster's (secrets, ConfigMaps).
Nothing but the Workspace itself and, when it is missing, its CustomResourceDefinition is written here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.catalog import Machine, NodeLabelsIncomplete, sizing
from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.contracts.results import PublishedAdapter
from include.manifests.weights import is_downloaded
from include.planning import Candidates, Plan, candidates
from include.planning.explain import sentences
from include.reconcile.mended import SECRETS
from include.workspace import (
    Fault,
    Workspace,
    examine_workspace,
)
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.status import conditions
from include.workspace.status.adapter import published
from include.workspace.status.provisioning_history import exhausted
from include.workspace.validation import identity
from kaito.controller import references
from kaito.controller.cost_recorder import over_budget
from kaito.hooks.api import WORKSPACE, ClusterError, workspace_kind
from kaito.hooks.cluster_calls import StaleWorkspace, fence
from kaito.hooks.cluster_calls import run as run_calls
from kaito.lookup import Lookup, look_up
from kaito.operators import (
    dry_run,
    exclusive,
    kept_adapter,
    model_image,
    model_revision,
    model_volume,
    push_trial,
)
from kaito.operators.crd import need_crd
from kaito.operators.preflight_faults import difference_faults, fit_faults, purpose_faults, unplanned
from kaito.operators.resumed import cleared, under_way
from kaito.params import Requested, requested, serving_params, tuning_params
from kaito.providers.availability import not_offered
from kaito.run_conf import conf_faults, identity_faults, refuse, secret_faults
from kaito.settings import check_push, manifest_settings, network, policy
from kaito.tasks import work_volume
from kaito.tasks.base import Run, WorkspaceTask
from kaito.tasks.preflight_result import PreflightResult, Trained, redacted

if TYPE_CHECKING:
    from airflow.sdk import Context

#: What a conf may say about an object; finalizers and owners belong to those who delete it.
METADATA = frozenset({"name", "namespace", "labels", "annotations"})


class PreflightOperator(WorkspaceTask, BaseOperator):
    """Checks a Workspace completely, plans it and leaves both in XCom.

    :param purpose: ``tuning`` or ``serving``: what this DAG does.
    :returns: a :class:`PreflightResult`, as JSON values.
    """

    #: What the user's ConfigMap holds, parsed: memory, time and context are planned for it.
    config: dict[str, Any]
    #: What the BYO nodes are.
    machine: Machine | None = None
    #: The id of a recorded run that is over, and whose place this run takes.
    replaces: str | None = None
    _push_was_tried = False
    #: What a document may say about its object.
    metadata = METADATA
    #: Where the model's files come from.
    source = model_image.Source()
    #: Whether that is the hub.
    downloads = False
    #: Of the Secrets that the Workspace names.
    versions: Mapping[str, str] = {}
    #: Which models this run's Workspace may name; set when the task runs.
    lookup: Lookup

    def __init__(self, *, purpose: Purpose, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purpose = purpose

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            return self._examine(context)
        except StaleWorkspace as stale:  # another try would take the new generation for this run's own
            raise AirflowFailException(str(stale)) from None

    def _examine(self, context: Context) -> dict[str, Any]:
        wanted = self._wanted(context)
        if astray := self._identity_faults(wanted):
            raise self._refusal(wanted, {}, astray, context["run_id"])
        need_crd(self.cluster, self.log)
        live = self._find(wanted)
        if live is None and wanted.document is None:
            raise AirflowFailException(
                f"There is no Workspace {wanted.name} in namespace {wanted.namespace}: apply it first, or start the "
                "run with the whole Workspace."
            )
        own = names.generation_of_run(context["run_id"], live) if live else None
        if own is not None and live and not live["metadata"].get("deletionTimestamp"):
            fence(live, wanted.name, "", own, begins=True)
        document = as_written(live) if live else self._with_namespace(wanted)
        self.replaces = exclusive.examine(document, context["run_id"]) if live else None
        self.lookup = look_up(document, lambda: self._hub_token(document, wanted.namespace))
        workspace = self._admit(document, wanted, context["run_id"], exists=live is not None)
        if live is None:
            document = self._apply(exclusive.marked(document, self.dag_id, context["run_id"]))
            workspace = self._admit(document, wanted, context["run_id"], exists=True)
        return self._accept(workspace, document, wanted, context["run_id"])

    @staticmethod
    def _identity_faults(wanted: Requested) -> list[Fault]:
        """G1, G2, F31: asked first, since nothing is read under such a name or in such a namespace."""
        named = identity.name_faults(wanted.name) if wanted.name else []
        return named + identity.namespace_faults(wanted.namespace, policy().allowed_namespaces)

    def _find(self, wanted: Requested) -> dict[str, Any] | None:
        if not wanted.name:
            return None
        return self.cluster.find(workspace_kind(wanted.api_version), wanted.name, wanted.namespace)

    def _wanted(self, context: Context) -> Requested:
        form = tuning_params() if self.purpose == Purpose.TUNING else serving_params()
        defaults = {key: param.value for key, param in form.items()}
        conf = context["dag_run"].conf or {}
        params = context["params"]
        refuse([*conf_faults(conf, form), *identity_faults(params), *secret_faults(params)])
        return requested(context["params"], conf, defaults, self.purpose)

    @staticmethod
    def _with_namespace(wanted: Requested) -> dict[str, Any]:
        document = dict(wanted.document or {})
        if isinstance(document.get("metadata"), Mapping):
            document["metadata"] = {"namespace": wanted.namespace, **document["metadata"]}
        return document

    def _admit(self, document: dict[str, Any], wanted: Requested, run_id: str, *, exists: bool) -> Workspace:
        """Return the Workspace, or refuse it with every fault there is."""
        workspace, faults = examine_workspace(document, self.lookup.catalog, policy())
        faults = self.lookup.with_doubt(faults)
        found = [*faults, *purpose_faults(self.purpose, document)]
        named = run_calls(references.look_up(self.cluster.calls, document, wanted.namespace))
        found += references.faults(document, named, workspace, self.lookup.catalog)
        self.config = references.user_config(document, named)
        self.versions = references.versions(document, named)
        for notice in references.notices(document, named):
            self.log.warning("%s", notice)
        if exists and wanted.document and wanted.said:
            found += difference_faults(wanted.document, document)
        if _mapping(document.get("metadata")).get("deletionTimestamp"):
            found.append(Fault("metadata.deletionTimestamp", None, "P1", "the Workspace is being deleted"))
        if self.lookup.transient and found == [self.lookup.fault]:
            raise RuntimeError(str(self.lookup.fault))  # Airflow tries again: nothing else is wrong
        if workspace is not None and not found:
            found += self._look_at_own_nodes(workspace, named)
            if workspace.is_tuning and self.purpose == Purpose.TUNING:
                found += work_volume.faults(self.cluster, document, manifest_settings().storage_class)
        if workspace is not None and not found:
            self.source, bad = model_image.look_up(self.cluster, workspace, self.lookup.catalog, named)
            found += [
                *bad,
                *self._pin(workspace, document, wanted.namespace),
                *self._push_faults(workspace, named),
            ]
        if found or workspace is None:
            raise self._refusal(wanted, document, found, run_id)
        return workspace

    def _pin(self, workspace: Workspace, document: dict[str, Any], namespace: str) -> list[Fault]:
        """P15: the commit of a model that pods download from the hub."""
        self.downloads = not self.source.image and is_downloaded(workspace, manifest_settings())
        if workspace.preset is None or not self.downloads:
            return []
        catalog, faults = model_revision.pin(
            self.lookup.catalog, document, lambda: self._hub_token(document, namespace)
        )
        self.lookup = replace(self.lookup, catalog=catalog)
        return faults

    def _push_faults(self, workspace: Workspace, named: references.Found) -> list[Fault]:
        """P10: asked last and once, since it is a question to somebody else's server."""
        if self._push_was_tried or self.purpose != Purpose.TUNING or not check_push():
            return []
        self._push_was_tried = True
        return push_trial.faults(workspace, named, network(), self._workspace_stands)

    def _workspace_stands(self, name: str, namespace: str) -> bool:
        """Whether another Workspace is there, as far as we may see."""
        if not (identity.is_namespace(name) and identity.is_namespace(namespace)):
            return False  # nothing is looked up under such a name
        try:
            return self.cluster.find(WORKSPACE, name, namespace) is not None
        except ClusterError as error:
            if error.transient:
                raise
            return True

    def _look_at_own_nodes(self, workspace: Workspace, named: references.Found) -> list[Fault]:
        """Remember what the BYO nodes are, to plan for them."""
        try:
            self.machine = references.own_machine(named, workspace)
        except NodeLabelsIncomplete as error:
            return [Fault("resource.labelSelector", None, "R10", str(error))]
        if self.machine is None and policy().of(workspace).byo:
            return [Fault("resource.labelSelector", None, "R9", "none of the cluster's nodes matches")]
        return (
            fit_faults(workspace, self.machine, self.lookup.catalog, self.config)
            if self.machine and workspace.is_tuning
            else []
        )

    def _hub_token(self, document: Mapping[str, Any], namespace: str) -> str | None:
        return run_calls(references.hub_token(self.cluster.calls, document, namespace))

    def _refusal(
        self, wanted: Requested, document: Mapping[str, Any], faults: list[Fault], run_id: str
    ) -> AirflowFailException:
        """Return the verdict; if the Workspace exists, its conditions tell it too."""
        lines = "\n".join(f"  - {fault}" for fault in faults)
        for fault in faults:
            self.log.error("%s", fault)
        metadata = _mapping(document.get("metadata"))
        overspent = all(fault.rule == "P7" for fault in faults)
        phase = conditions.Phase.BUDGET_EXCEEDED if overspent else conditions.Phase.INVALID
        verdict = "; ".join(str(fault) for fault in faults)
        self.leave_outcome(phase, verdict)
        if metadata.get("uid"):
            run = Run(dict(document), None, None, names.run_id_label(run_id))
            self.report(run, phase, verdict, edit=self._note_versions)
        return AirflowFailException(
            f"Workspace {wanted.namespace}/{wanted.name} cannot run, {plural(len(faults), 'fault')}:\n{lines}"
        )

    def _apply(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Make the Workspace of a conf: what it is, and not who holds or owns it."""
        said = {key: value for key, value in document["metadata"].items() if key in self.metadata}
        made = {**document, "metadata": said}
        try:
            return as_written(self.cluster.apply(workspace_kind(document["apiVersion"]), made, force=False))
        except ClusterError as error:
            if error.transient:
                raise
            raise AirflowFailException(f"The API server refused the Workspace: {error}") from None

    def _accept(
        self, workspace: Workspace, document: dict[str, Any], wanted: Requested, run_id: str
    ) -> dict[str, Any]:
        try:
            tuning, serving = self._plans(workspace)
        except sizing.DoesNotFit as error:  # by a runtime that stands in, say; no later try can help
            raise self._refusal(wanted, document, [unplanned(workspace, error)], run_id) from None
        tuning, serving = self.source.used_by(tuning), self.source.used_by(serving)
        nodes = max(plan.node_count for found in (tuning, serving) if found for plan in found.plans)
        if faults := model_volume.faults(self.cluster, workspace, nodes):
            raise self._refusal(wanted, document, faults, run_id)
        trained = kept_adapter.wanted(self.cluster, document, tuning.first) if tuning else None
        if (
            tuning
            and not trained
            and (faults := kept_adapter.exact_faults(self.cluster, document, tuning.first))
        ):
            raise self._refusal(wanted, document, faults, run_id)
        if not under_way(document, run_id):  # then its own machines would count
            refused: dict[str, str] = {}
            if trained:
                pass  # nothing is asked for
            elif tuning:
                tuning, refused = self._granted(document, tuning, run_id)
            elif serving:
                serving, refused = self._granted(document, serving, run_id)
            if tuning and not trained:
                tuning = self._left_in_budget(wanted, document, tuning, serving, refused, run_id)
                refused = {}  # of the tuning's machines
            if serving:
                other = None if trained else tuning
                serving = self._left_in_budget(wanted, document, serving, other, refused, run_id)
            self._take_a_dry_run(wanted, document, tuning, serving, run_id, trained)
        return self._record(document, tuning, serving, run_id, trained)

    def _plans(self, workspace: Workspace) -> tuple[Candidates | None, Candidates | None]:
        """What this run tunes on and what it serves on. Raises DoesNotFit."""
        catalog, tunes = self.lookup.catalog, workspace.tuning and self.purpose == Purpose.TUNING
        tuning = candidates(workspace, catalog, self.config, self.machine) if tunes else None
        serving = None
        if workspace.rollout or not workspace.tuning:
            serving = candidates(
                workspace,
                catalog,
                None if workspace.tuning else self.config,
                self.machine,
                serving=bool(workspace.tuning),
                runtimes=manifest_settings().serving_runtimes,
            )
        return tuning, serving

    def _take_a_dry_run(
        self,
        wanted: Requested,
        document: dict[str, Any],
        tuning: Candidates | None,
        serving: Candidates | None,
        run_id: str,
        trained: Trained | None,
    ) -> None:
        """Refuse what the API server would refuse later, with machines waiting for it."""
        first = tuning.first if tuning else None
        second = serving.first if serving else None
        run = Run(document, first or second, second, names.run_id_label(run_id), trained=trained)
        if found := dry_run.refusals(self.cluster, run, manifest_settings()):
            raise self._refusal(wanted, document, found, run_id)

    def _left_in_budget(
        self,
        wanted: Requested,
        document: Mapping[str, Any],
        found: Candidates,
        other: Candidates | None,
        refused: Mapping[str, str],
        run_id: str,
    ) -> Candidates:
        """Leave out what would cost more than the budget allows, together with the cheapest for the other purpose.

        Only what machines cost at least counts here; what the rows take is added when they are there.

        :param refused: what the cloud would not give, with its words. When the budget rules out all others, the run may
            be tried again later, since a cloud may have tomorrow what it lacks today.
        """
        besides = min(map(_least, other.plans)) if other else 0.0
        serving = found.first.purpose == Purpose.SERVING
        what = "the start of the service" if serving else "the tuning without its training"
        over = {plan.offer: over_budget(document, what, _least(plan) + besides) for plan in found.plans}
        left = tuple(plan for plan in found.plans if not over[plan.offer])
        for offer, why in over.items():
            if why:
                self.log.warning("%s is passed over: %s", offer, why)
        if left:
            return replace(found, plans=left)
        if refused:
            raise self._none_left(document, {**refused, **over}, over, run_id)
        path, hint = f"metadata.annotations[{names.BUDGET}]", "raise it or choose a cheaper machine"
        told = over[min(found.plans, key=_least).offer]
        raise self._refusal(wanted, document, [Fault(path, None, "P7", told, hint)], run_id)

    def _none_left(
        self, document: Mapping[str, Any], why: Mapping[str, str], over: Collection[str], run_id: str
    ) -> AirflowFailException:
        told = exhausted(list(why.items()), over)
        run = Run(dict(document), None, None, names.run_id_label(run_id))
        self.report(run, conditions.Phase.NODES_FAILED, told, reason=conditions.Reason.CAPACITY_UNAVAILABLE)
        return AirflowFailException(told)

    def _granted(
        self, document: dict[str, Any], found: Candidates, run_id: str
    ) -> tuple[Candidates, dict[str, str]]:
        """Leave out what the cloud says it would refuse, and say why; the run ends here when that is all."""
        run = Run(dict(document), None, None, names.run_id_label(run_id))
        try:
            refused = not_offered(self.cluster, document, found.plans)
        except ValueError as error:  # of the settings, the annotation or the connection
            self.report(run, conditions.Phase.NODES_FAILED, str(error))
            raise AirflowFailException(str(error)) from None
        for offer, why in refused.items():
            self.log.warning("%s is passed over: %s", offer, why)
        left = tuple(plan for plan in found.plans if plan.offer not in refused)
        if left:
            return replace(found, plans=left), refused
        raise self._none_left(document, refused, (), run_id)

    def _record(
        self,
        document: dict[str, Any],
        tuning: Candidates | None,
        serving: Candidates | None,
        run_id: str,
        trained: Trained | None,
    ) -> dict[str, Any]:
        """Leave the plans to the later tasks and tell the Workspace's author, unless this run goes on from before."""
        known = {
            purpose: found
            for purpose, found in ((Purpose.TUNING, tuning), (Purpose.SERVING, serving))
            if found
        }
        for found in known.values():
            for sentence in found.sentences():
                self.log.info("%s", sentence)
        result = PreflightResult(
            workspace=redacted(document),
            plan=next(iter(known.values())).first,
            serving_plan=serving.first if serving else None,
            alternatives={
                purpose: tuple(found.plans[1:]) for purpose, found in known.items() if found.plans[1:]
            },
            trained=trained,
        )
        if under_way(document, run_id):
            self.log.info("This run was under way before: going on with what it reached.")
            self._tell_kept(Run.of(result, run_id))
            done = published(document)
            return (
                result.model_copy(update={"adapter": PublishedAdapter.read(done)}) if done else result
            ).to_xcom()
        begun = {"id": run_id, "dag": self.dag_id, "replaces": self.replaces}
        run = Run.of(result, run_id)
        phase, told = conditions.Phase.ACCEPTED, sentences(result.plan)[0]
        if cleared(document, run_id):
            phase, told = conditions.Phase.RESUMED, f"Steps of run {run_id} were cleared and are done again"
        self.report(run, phase, told, begun=begun, edit=partial(self._note_inputs, document, result.plan))
        exclusive.confirm(self.live_workspace(run), run_id)
        if phase is conditions.Phase.ACCEPTED or run.trained is None or run.trained.run != run.run_id:
            self._tell_kept(run)  # else its own conditions say it
        return result.to_xcom()

    def _note_versions(self, status: dict[str, Any]) -> dict[str, Any]:
        """Leave to the reconciler which Secrets this run was judged by: when they change, a failure may be mended."""
        known = {
            key: version
            for key, version in (status.get("inputs") or {}).items()
            if not key.startswith(SECRETS)
        }
        inputs = {**known, **self.versions}
        return {**status, "inputs": inputs} if inputs else status

    def _note_inputs(self, document: dict[str, Any], plan: Plan, status: dict[str, Any]) -> dict[str, Any]:
        """Leave to later runs which Secrets this one was judged by, and which commit of the model it works with."""
        return model_revision.noted(self._note_versions(status), document, plan, self.downloads)

    def _tell_kept(self, run: Run) -> None:
        """Say that only the push is left to do, where it is."""
        if run.trained:
            told = f"{kept_adapter.sentence(run.trained)}: it is only pushed, and no data is fetched again"
            self.log.info("%s.", told)
            more = f"{told}. To train anew, set {names.RERUN} to a new value after this run."
            self.report(run, conditions.Phase.ADAPTER_KEPT, more)


def _least(plan: Plan) -> float:
    """What a plan's machines cost at least, in US dollars."""
    return plan.estimate(0).usd or 0.0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
