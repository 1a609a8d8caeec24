"""Checks the Workspaces of some texts, with the ConfigMaps among them that they use.

All texts are read before anything is checked, since a ConfigMap may stand in another file than its Workspace. It must
never raise for what a text holds: everything wrong is in the report, and every file is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from include.catalog import Catalog, load_catalog
from include.cli import config_maps
from include.cli.config_maps import ConfigMap
from include.cli.hub_models import HubModels, Resolve
from include.cli.report import (
    DocumentReport,
    FileReport,
    Finding,
    Problem,
    Report,
)
from include.cli.sources import Source
from include.contracts.yaml_documents import reader as documents
from include.contracts.yaml_documents.reader import BadDocument, Place
from include.workspace.api.models import Workspace
from include.workspace.api.names import GROUP, KIND, RETRAIN_POLICY, RUNTIME
from include.workspace.api.parse import examine_workspace
from include.workspace.validation.faults import Fault
from include.workspace.validation.notices import notices
from include.workspace.validation.rules import Policy

LISTS = ("List", f"{KIND}List")  # what `kubectl get -o yaml` prints
OTHER_KINDS = ("InferenceSet", "ModelMirror", "MultiRoleInference", "RAGEngine")  # of the group kaito.sh
NO_PLAN = "Its nodes are BYO (bring your own): whether the model fits them is checked in the cluster, by their labels."
PLAN_RULE = "N1"  # a Workspace that keeps every rule and still cannot be planned


class Plan(Protocol):
    """What the command needs of a plan; the planner stands on a higher floor."""

    def to_dict(self) -> dict[str, Any]: ...

    def sentences(self) -> list[str]: ...


class Planner(Protocol):
    """Makes the plan of a valid Workspace; None where there is nothing to plan. Raises LookupError or ValueError."""

    def __call__(
        self, workspace: Workspace, config: Mapping[str, Any] | None, policy: Policy, catalog: Catalog, /
    ) -> Plan | None: ...


class _Object(NamedTuple):
    """One Kubernetes object of a file, on its own or in a List."""

    file: str
    value: Any
    place: Place

    @property
    def kind(self) -> str:
        kind = self.value.get("kind") if isinstance(self.value, Mapping) else None
        return kind if isinstance(kind, str) else ""

    def metadata(self, key: str) -> str:
        meta = self.value.get("metadata") if isinstance(self.value, Mapping) else None
        text = meta.get(key) if isinstance(meta, Mapping) else None
        return text if isinstance(text, str) else ""


def check(
    sources: Iterable[Source],
    policy: Policy,
    planner: Planner | None = None,
    resolve: Resolve | None = None,
) -> Report:
    """The report on every document of these texts; `resolve` asks the hub for models that are no presets."""
    files: list[tuple[FileReport, list[_Object]]] = [_read(source) for source in sources]
    maps = [
        ConfigMap(one.file, one.metadata("namespace"), one.metadata("name"), one.value, one.place)
        for _, objects in files
        for one in objects
        if one.kind == "ConfigMap"
    ]
    checker = _Checker(policy, planner, maps, HubModels(load_catalog(), resolve))
    for file, objects in files:
        file.documents += [checker.examine(one) for one in objects]
    for file, _ in files:
        for document in file.documents:
            if document.kind == "ConfigMap" and (file.name, document.line) in checker.used:
                document.passed_over, document.used = "checked with the Workspaces that use it", True
    return Report([file for file, _ in files])


def _read(source: Source) -> tuple[FileReport, list[_Object]]:
    file = FileReport(source.name, walked=source.walked)
    if source.error:
        file.problems.append(Problem(source.name, 0, 0, source.error))
        return file, []
    objects: list[_Object] = []
    for document in documents.read(source.data):
        if isinstance(document, BadDocument):
            problem = Problem(source.name, document.line or 1, document.column or 1, document.reason)
            file.problems.append(problem)
        else:
            objects += _objects(source.name, document.value, document.place)
    if not objects and not file.problems:
        file.problems.append(Problem(source.name, 1, 1, "holds no document"))
    if source.walked and GROUP.encode() not in source.data:
        file.documents, file.problems = [_not_ours(problem) for problem in file.problems], []
    return file, objects


def _not_ours(problem: Problem) -> DocumentReport:
    """A file that happened to lie in a folder, cannot be read, and nowhere speaks of Workspaces: a template, say."""
    at = problem.line or 1, problem.column or 1
    return DocumentReport(problem.file, *at, "", passed_over=problem.message, remarkable=True)


def _objects(file: str, value: object, place: Place) -> Iterator[_Object]:
    """The objects of a document: itself, or the items of a List."""
    items = value.get("items") if isinstance(value, Mapping) and value.get("kind") in LISTS else None
    if not isinstance(items, list):
        yield _Object(file, value, place)
        return
    for index, item in enumerate(items):
        yield _Object(file, item, place.find(f"items[{index}]"))


def is_workspace(value: object) -> bool:
    """Whether a document means to be a Workspace; a misspelt kind is the author's fault, not another kind."""
    if not isinstance(value, Mapping):
        return False
    ours = str(value.get("apiVersion") or "").startswith(f"{GROUP}/")
    return value.get("kind") == KIND or (ours and value.get("kind") not in OTHER_KINDS)


class _Checker:
    """Examines objects one by one; remembers which ConfigMaps were used."""

    def __init__(
        self, policy: Policy, planner: Planner | None, maps: list[ConfigMap], models: HubModels
    ) -> None:
        self.policy = policy
        self.planner = planner
        self.maps = maps
        self.models = models
        self.used: set[tuple[str, int]] = set()
        self.judged: dict[tuple[int, str, str, str], tuple[list[Finding], list[str]]] = {}
        self.parsed: dict[tuple[int, str], tuple[Mapping[str, Any], list[str]]] = {}

    def examine(self, one: _Object) -> DocumentReport:
        report = DocumentReport(
            one.file,
            one.place.line,
            one.place.column,
            one.kind,
            one.metadata("name"),
            one.metadata("namespace"),
        )
        if not isinstance(one.value, Mapping):
            report.passed_over = "not an object"
        elif not is_workspace(one.value):
            report.passed_over = "passed over, not a Workspace" if report.kind else "not a Workspace"
        else:
            self._workspace(one, report)
        return report

    def _workspace(self, one: _Object, report: DocumentReport) -> None:
        report.kind = KIND
        catalog, doubt = self.models.of(one.value)
        workspace, faults = examine_workspace(one.value, catalog, self.policy)
        if doubt is not None:  # the hub's own reason in the place of "is not a known preset"
            faults = [doubt, *(fault for fault in faults if fault.path != doubt.path)]
        report.faults = [self._finding(one, fault) for fault in faults]
        if workspace is None:
            return
        report.faults.sort(key=lambda finding: (finding.line, finding.column))
        config = self._config_maps(workspace, catalog, report)
        report.notices += notices(workspace, catalog)
        if not report.faults and self.planner is not None:
            self._plan(one, workspace, config, catalog, report)

    def _finding(self, one: _Object, fault: Fault) -> Finding:
        place = one.place.find(fault.path)
        if fault.rule == "C4":
            fault = replace(
                fault, hint=f"{fault.hint}; or check with --byo, where nodes are BYO (bring your own)"
            )
        elif fault.rule in ("I3", "U12") and "/" in str(fault.value):
            joint = " Or" if fault.hint.endswith("?") else "; or"
            fault = replace(fault, hint=f"{fault.hint}{joint} check with --hub, which asks the hub for it")
        return Finding(one.file, place.line, place.column, fault)

    def _plan(
        self,
        one: _Object,
        workspace: Workspace,
        config: Mapping[str, Any] | None,
        catalog: Catalog,
        report: DocumentReport,
    ) -> None:
        try:
            plan = self.planner(workspace, config, self.policy, catalog) if self.planner else None
        except (LookupError, ValueError) as error:
            fault = Fault("resource.instanceType", workspace.instance_type or None, PLAN_RULE, str(error))
            report.faults.append(self._finding(one, fault))
            return
        if plan is not None:
            report.plan, report.sentences = plan.to_dict(), plan.sentences()
        else:
            report.sentences = [NO_PLAN]

    def _config_maps(
        self, workspace: Workspace, catalog: Catalog, report: DocumentReport
    ) -> Mapping[str, Any] | None:
        """Checks the ConfigMaps that a Workspace uses; gives the config that its plan is made with."""
        if policy := workspace.annotations.get(RETRAIN_POLICY):
            self._retraining(policy, report)
        if workspace.tuning and workspace.tuning.config:
            found = self._used("tuning.config", workspace.tuning.config, report)
            return self._training(found, workspace, catalog, report) if found else None
        if workspace.inference and workspace.inference.config:
            found = self._used("inference.config", workspace.inference.config, report)
            return self._serving(found, workspace, catalog, report) if found else None
        return None

    def _retraining(self, name: str, report: DocumentReport) -> None:
        """The policy of a retraining, where it is in these files."""
        from include.contracts import golden_set
        from include.retraining import checking as retraining
        from include.retraining.policy import KEY

        if not (found := self._used(f"annotation {RETRAIN_POLICY}", name, report)):
            return
        golden: ConfigMap | None = None
        if asked := retraining.golden_name(config_maps.content(found, KEY) or ""):
            golden = self._used("evaluation.goldenSet of the policy", asked, report)
        known = config_maps.content(golden, golden_set.KEY) if golden else None
        report.faults += config_maps.findings(
            found, KEY, "P5", lambda text: retraining.policy_faults(text, lambda _: known)
        )
        if golden:
            report.faults += config_maps.findings(
                golden, golden_set.KEY, golden_set.RULE, retraining.golden_faults
            )

    def _training(
        self, found: ConfigMap, workspace: Workspace, catalog: Catalog, report: DocumentReport
    ) -> Mapping[str, Any]:
        from include.workspace.validation.training_config import (
            KEY,
            check_training_config,
            config_notices,
            layer_notices,
        )

        text = config_maps.content(found, KEY)
        preset = workspace.preset.name if workspace.preset else ""
        # One ConfigMap may serve hundreds of Workspaces.
        key = (id(found), workspace.method, workspace.objective, preset)
        if key not in self.judged:
            faults = config_maps.findings(
                found, KEY, "M2", lambda text: check_training_config(workspace, text, catalog)
            )
            self.judged[key] = faults, layer_notices(workspace, text or "", catalog)
        faults, of_model = self.judged[key]
        report.faults += faults
        read = (id(found), workspace.objective)
        if read not in self.parsed:
            told = config_notices(text or "", workspace.objective)
            notices = [f"ConfigMap {found.name}: {notice}" for notice in told]
            self.parsed[read] = config_maps.parsed(text or ""), notices
        training, told = self.parsed[read]
        report.notices += [*told, *(f"ConfigMap {found.name}: {one}" for one in of_model)]
        return training

    def _serving(
        self, found: ConfigMap, workspace: Workspace, catalog: Catalog, report: DocumentReport
    ) -> Mapping[str, Any]:
        from include.workspace.validation.inference_config import KEY, check_inference_config, config_notices

        report.faults += config_maps.findings(
            found, KEY, "V3", lambda text: check_inference_config(workspace, text, catalog)
        )
        text = config_maps.content(found, KEY) or ""
        if workspace.annotations.get(RUNTIME) != "transformers":
            report.notices += [f"ConfigMap {found.name}: {notice}" for notice in config_notices(text)]
        return config_maps.parsed(text)

    def _used(self, path: str, name: str, report: DocumentReport) -> ConfigMap | None:
        result = config_maps.find(self.maps, report.namespace, name)
        if result is None:
            notice = f"{path}: the ConfigMap {name} is not in these files, so its content was not checked."
            report.notices.append(notice)
            return None
        self.used.add((result.file, result.place.line))
        return result
