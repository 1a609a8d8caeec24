"""The first steps of a retraining: is there something to learn, and if so, the Workspace that will learn it.

Nothing here touches the service. Whatever makes a retraining needless (the data is the same, it is too soon, the
budget is spent) ends the run early and green; what is wrong with it is told with all its faults.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include import manifests
from include.contracts import golden_set
from include.contracts.faults import Fault
from include.contracts.results import DatasetResult, PublishedAdapter
from include.contracts.row_changes import RowChanges
from include.ledger import records
from include.retraining import evaluation, versions
from include.retraining import policy as policies
from include.retraining.dataset_watch import Mark, Rows, Seen, change, compare, cools_down, next_look
from include.retraining.policy import Policy, PolicyInvalid, Start, When
from include.retraining.schedule import DATA
from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.api.annotations import budget_of
from include.workspace.status import retraining
from include.workspace.status.adapter import published
from include.workspace.status.conditions import ConditionType, Reason, condition, moment, timestamp
from include.workspace.status.runs import ALIVE, RunState
from kaito.controller.cost_recorder import over_budget
from kaito.controller.dag_runs import state_of
from kaito.hooks.api import CONFIG_MAP, SECRET, WORKSPACE
from kaito.operators import kept_adapter
from kaito.operators.preflight import METADATA, PreflightOperator
from kaito.params import Requested
from kaito.run_conf import conf_faults, identity_faults, refuse
from kaito.settings import has_lm_eval
from kaito.tasks import golden_sets
from kaito.tasks.dataset_marks import marks
from kaito.tasks.results import ChangeJudged, DataChange
from kaito.tasks.retraining import Retraining, RetrainTask

if TYPE_CHECKING:
    from airflow.sdk import Context

#: What a training has come to, as RetrainReady tells it until the next one.
VERDICTS = frozenset(
    {Reason.PROMOTED, Reason.CANDIDATE_REFUSED, Reason.ROLLED_BACK, Reason.RETRAIN_FAILED, Reason.PROMOTING}
)
#: How often a retraining that waits for another one of its Workspace asks whether that is over.
WAIT = timedelta(seconds=30)
#: What Airflow calls a run that a DAG's own schedule has made.
SCHEDULED = "scheduled"
#: How much sooner than planned a look of a DAG's own schedule may come, since the last one may have begun late.
LATE = timedelta(minutes=1)


class PlanCandidateOperator(RetrainTask, BaseOperator):
    """Decides whether there is something to train, and which version it will be.

    :param workspace: name of the Workspace whose service is to be renewed. (templated)
    :param namespace: its namespace. (templated)
    :param policy: the policy, None for the ConfigMap that the Workspace's annotation names.
    :param urls: where the dataset of this run lies, in place of the Workspace's own. (templated)
    :param form: the fields of the DAG's form, whose conf may say nothing else; None where the DAG is somebody else's.
    :param watches: whether the DAG's schedule is that of looks at the dataset, no more often than the policy says.
    :returns: as ``Retraining.to_xcom`` gives it.
    """

    template_fields = ("workspace", "namespace", "urls")

    def __init__(
        self,
        *,
        workspace: str,
        namespace: str,
        policy: Mapping[str, Any] | None = None,
        urls: Sequence[str] = (),
        form: Collection[str] | None = None,
        watches: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.form = form
        self.watches = watches
        self.workspace = workspace
        self.namespace = namespace
        self.policy = policy
        self.urls = urls

    def execute(self, context: Context) -> dict[str, Any]:
        if self.form is not None:
            params = context["params"]
            refuse([*conf_faults(context["dag_run"].conf or {}, self.form), *identity_faults(params)])
            self.policy = params.get("policy")
        live = self._find()
        policy = self._policy(live)
        status = live.get("status") or {}
        self._wait_for_another(status, context["run_id"])
        self._is_affordable(live, context["run_id"])
        now = datetime.now(UTC)
        known = retraining.of(status)
        if until := cools_down(moment(known.get("trained")), policy.cool_down, now):
            told = f"The last training was lately: the next may begin at {timestamp(until)}"
            raise self._not_now(
                live, context, told, **({"next": timestamp(until)} if _is_watched(live) else {})
            )
        seen = self._look_at_the_data(live, policy, context, now)
        plan = self._plan(live, policy, seen, context["run_id"], now)
        self._begin(plan, context, now)
        return plan.to_xcom()

    def waited(self, context: Context, event: object = None) -> dict[str, Any]:
        """Come back from the wait for another run of this Workspace."""
        return self.execute(context)

    def _find(self) -> dict[str, Any]:
        live = self.cluster.find(WORKSPACE, self.workspace, self.namespace) if self.workspace else None
        which = f"Workspace {self.namespace}/{self.workspace}"
        if live is None:
            raise AirflowFailException(f"There is no {which}: name one that has been tuned.")
        notes = live["metadata"].get("annotations") or {}
        if notes.get(names.PAUSED) == "true" or live["metadata"].get("deletionTimestamp"):
            raise AirflowSkipException(f"{which} is paused or being deleted: it is not retrained.")
        if names.RETRAIN_OF in (live["metadata"].get("labels") or {}):
            raise AirflowFailException(
                f"{which} is itself a candidate; name the Workspace that it was made for."
            )
        if not ((live.get("tuning") or {}).get("output") or {}).get("image"):
            raise AirflowFailException(
                f"{which} pushes no adapter image (tuning.output.image) to make versions of."
            )
        if published(live) is None:
            raise AirflowFailException(f"{which} has published no adapter yet: its own tuning comes first.")
        return live

    def _policy(self, live: Mapping[str, Any]) -> Policy:
        name = (live["metadata"].get("annotations") or {}).get(names.RETRAIN_POLICY)
        where = f"ConfigMap {name}, key {policies.KEY}"
        try:
            if self.policy is not None:
                found = policies.of(self.policy)
            elif name is None:
                found = Policy()
            else:
                data = (self.cluster.find(CONFIG_MAP, name, self.namespace) or {}).get("data") or {}
                if policies.KEY not in data:
                    hint = f"make it with the key {policies.KEY}"
                    raise PolicyInvalid(
                        [Fault(f"annotations[{names.RETRAIN_POLICY}]", name, "P5", "is missing", hint)]
                    )
                found = policies.read(data[policies.KEY])
            if wrong := self._measurable(found):
                raise PolicyInvalid(wrong)
        except PolicyInvalid as error:
            told = [str(fault) for fault in error.faults]
            raise AirflowFailException(
                self._invalid(live, told, where if name and self.policy is None else "")
            ) from None
        return found

    def _measurable(self, policy: Policy) -> list[Fault]:
        """What the golden set and the gate have wrong: nobody trains for hours to find that it cannot be judged."""
        if policy.evaluation and policy.evaluation.lm_eval and not has_lm_eval():
            hint = "give them the package and set [kaito] lm_eval to true, or leave the tasks out"
            tasks = ", ".join(policy.evaluation.lm_eval.tasks)
            return [
                Fault("evaluation.lmEval", tasks, "E4", "needs lm-eval, which the images here have not", hint)
            ]
        golden: str | bytes | None = None
        if policy.evaluation and (source := policy.evaluation.golden_set):
            try:
                golden = golden_sets.text_of(self.cluster, source, self.namespace)
            except golden_sets.GoldenSetNotRead as error:
                return [Fault("evaluation.goldenSet", str(source), golden_set.RULE, str(error))]
        return evaluation.faults(policy.evaluation, policy.gate, golden)

    def _invalid(self, live: Mapping[str, Any], faults: list[str], where: str = "") -> str:
        message = f"The policy{f' in {where}' if where else ''} cannot be used: {'; '.join(faults)}"
        self._told(live, False, Reason.RETRAIN_INVALID, message)
        return message

    def _told(self, live: Mapping[str, Any], ok: bool, reason: Reason, message: str, **fields: Any) -> None:
        self.tell(self._retraining(live, Policy(), "", []), ok, reason, message, **fields)

    def _wait_for_another(self, status: Mapping[str, Any], run_id: str) -> None:
        """Defer this task while another run retrains the Workspace."""
        run = retraining.working(status)
        if not run or run["id"] == run_id or state_of(str(run["dag"]), str(run["id"])) not in ALIVE:
            return
        told = "Waiting until run %s of DAG %s is over: it retrains this Workspace."
        self.log.info(told, run["id"], run["dag"])
        self.defer(trigger=TimeDeltaTrigger(WAIT), method_name="waited")

    def _is_affordable(self, live: Mapping[str, Any], run_id: str) -> None:
        """A budget counts all that was spent on a Workspace, retraining included; the preflight plans the next."""
        if told := over_budget(live, "another training", 0.0):
            self._told(live, False, Reason.BUDGET_EXCEEDED, told, **self._run_is_over(live, run_id))
            raise AirflowSkipException(told)

    def _run_is_over(self, live: Mapping[str, Any], run_id: str) -> dict[str, Any]:
        return {"run": self.over(live.get("status") or {}, run_id).get("run")}

    def _not_now(
        self, live: Mapping[str, Any], context: Context, message: str, **fields: Any
    ) -> AirflowSkipException:
        told = condition(live.get("status"), ConditionType.RETRAIN_READY) or {}
        fields |= self._run_is_over(live, context["run_id"])
        # What the last training came to is worth more than that nothing is new.
        if told.get("reason") in VERDICTS:
            self.tell(self._retraining(live, Policy(), "", []), **fields)
        else:
            self._told(live, True, Reason.DATASET_UNCHANGED, message, **fields)
        return AirflowSkipException(message)

    def _look_at_the_data(
        self, live: Mapping[str, Any], policy: Policy, context: Context, now: datetime
    ) -> list[dict[str, str]]:
        """Ask its servers, where that matters; returns what they said. Raises AirflowSkipException: nothing is new."""
        watched = _is_watched(live)
        if policy.when is When.ALWAYS and not watched:
            return []
        known = retraining.of(live.get("status")).get("dataset") or {}
        if self.watches and context["dag_run"].run_type == SCHEDULED:
            every = policy.watch.every
            at = next_look(moment(known.get("checked")), every, now)
            if at - now > min(LATE, every / 2):
                raise self._not_now(live, context, f"Its server may be asked again at {timestamp(at)}")
        source = {**live, "tuning": {"input": {"urls": list(self.urls)}}} if self.urls else live
        seen = marks(source, lambda name: self.cluster.find(SECRET, name, self.namespace))
        said = compare([Mark.of(one) for one in known.get("marks") or ()], seen)
        fields: dict[str, Any] = {"dataset": {**known, "checked": timestamp(now)}}
        if watched:
            fields["next"] = timestamp(now + policy.watch.every)
        if said is Seen.SAME:
            raise self._not_now(live, context, "The dataset has not changed, its server says", **fields)
        self.log.info("What its server says of the dataset: %s.", said)
        self.tell(self._retraining(live, policy, "", []), **fields)
        return [mark.as_dict() for mark in seen]

    def _plan(
        self, live: Mapping[str, Any], policy: Policy, seen: list[dict[str, str]], run_id: str, now: datetime
    ) -> Retraining:
        known = retraining.of(live.get("status"))
        run = known.get("run") or {}
        mine = run.get("id") == run_id and run.get("version")
        # No number is given twice, since the candidate of a run that found nothing new may still be on its way out.
        taken = [str(one.get("version")) for one in (run, *(known.get("versions") or ()))]
        children = self.cluster.list(
            WORKSPACE, names.namespace(live), {names.RETRAIN_OF: live["metadata"]["name"]}
        )
        taken += [
            str((one["metadata"].get("annotations") or {}).get(names.RETRAIN_VERSION)) for one in children
        ]
        return self._retraining(live, policy, str(mine or versions.next_version(now, taken)), seen)

    def _retraining(
        self, live: Mapping[str, Any], policy: Policy, version: str, seen: list[dict[str, str]]
    ) -> Retraining:
        metadata = live["metadata"]
        return Retraining(
            workspace=metadata["name"],
            namespace=names.namespace(live),
            uid=metadata["uid"],
            generation=names.generation(live),
            version=version,
            candidate=versions.candidate_name(metadata["name"], version),
            policy=policy,
            current=PublishedAdapter.read((live.get("status") or {}).get("adapter")),
            marks=seen,
            urls=list(self.urls),
        )

    def _begin(self, plan: Retraining, context: Context, now: datetime) -> None:
        """Take the Workspace's retraining for this run; the API server takes one such write and refuses another."""
        run_id, dag_id = context["run_id"], context["ti"].dag_id

        def edit(status: dict[str, Any]) -> dict[str, Any]:
            known = retraining.of(status)
            run = known.get("run") or {}
            self._wait_for_another(status, run_id)  # one that was quicker
            mine = run if run.get("id") == run_id else {"id": run_id, "dag": dag_id, "since": timestamp(now)}
            known["run"] = {**mine, "state": RunState.STARTED, "version": plan.version}
            message = f"Version {plan.version} is being made by run {run_id}, beside the service"
            found = retraining.with_retrain(status, known)
            return retraining.told(found, False, Reason.RETRAINING, message, plan.generation, now)

        self.change(plan.workspace, plan.namespace, plan.uid, edit)
        self._forget_earlier(plan)

    def _forget_earlier(self, plan: Retraining) -> None:
        """Candidates of runs that are over go, with their volumes; what they pushed stays in the registry."""
        for one in self.cluster.list(WORKSPACE, plan.namespace, {names.RETRAIN_OF: plan.workspace}):
            metadata = one["metadata"]
            if metadata["name"] != plan.candidate and not metadata.get("deletionTimestamp"):
                self.log.info("Candidate %s of an earlier run is let go.", metadata["name"])
                self.cluster.delete(WORKSPACE, metadata["name"], plan.namespace, uid=metadata["uid"])


def _is_watched(live: Mapping[str, Any]) -> bool:
    """Whether the Workspace's schedule is that of looks at its dataset."""
    return (live["metadata"].get("annotations") or {}).get(names.RETRAIN_SCHEDULE) == DATA


def _origin(plan: Retraining) -> dict[str, Any]:
    """What a version goes on from: whatever that one learnt from stands behind this one too."""
    served = plan.current.digest
    return {"from": served} if plan.policy.start is Start.CURRENT and served else {}


class CandidatePreflightOperator(RetrainTask, PreflightOperator):
    """Makes the candidate's Workspace, and checks and plans it as that of any tuning."""

    metadata = METADATA | {"ownerReferences"}

    def _wanted(self, context: Context) -> Requested:
        plan = self.retraining(context)
        live = self.cluster.find(WORKSPACE, plan.workspace, plan.namespace)
        if live is None or live["metadata"]["uid"] != plan.uid:
            raise AirflowFailException(f"Workspace {plan.workspace} is gone: nothing is trained for it.")
        status = live.get("status") or {}
        limit = budget_of(live["metadata"].get("annotations") or {})
        spent = records.spent(status.get("cost"), datetime.now(UTC)) + float(
            retraining.of(status).get("usd") or 0.0
        )
        measured = plan.policy.evaluation
        document = manifests.candidate(
            live,
            plan.version,
            current=plan.current.reference,
            continued=plan.policy.start is Start.CURRENT,
            config=plan.policy.config,
            urls=plan.urls,
            budget=None if limit is None else max(0.01, limit - spent),
            held_out=measured.held_out if measured else None,
            known_rows=retraining.rows_learnt_from(status) or None,
        )
        return Requested(plan.candidate, plan.namespace, document, said=False)


class JudgeChangeOperator(RetrainTask, BaseOperator):
    """Compares the rows that were fetched with those that were learnt from last; ends the run when nothing is new.

    :param dataset_task_id: the task that fetched them.
    """

    def __init__(self, *, dataset_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset_task_id = dataset_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        plan, fetched = self.retraining(context), self.pull(context, self.dataset_task_id, DatasetResult)
        live = self.cluster.find(WORKSPACE, plan.workspace, plan.namespace) or {}
        known = retraining.of(live.get("status")).get("dataset") or {}
        now = Rows(fetched.digest or "", fetched.rows or 0)
        minimum = plan.policy.minimum_change
        moved = RowChanges.of(fetched.added, fetched.removed)
        found = change(self._before(live, known), now, moved, rows=minimum.rows, share=minimum.share)
        dataset = {**known, **({"marks": plan.marks} if plan.marks else {})}
        if not found.worth and plan.policy.when is When.CHANGED:
            message = f"Nothing is trained: {found.why}"
            self.tell(plan, True, Reason.DATASET_UNCHANGED, message, dataset=dataset)
            raise AirflowSkipException(message)
        self.log.info("Worth a training: %s.", found.why)
        before = {"rows": known["rows"], "digest": known["digest"]} if known.get("digest") else None
        told = {"added": moved.added, "removed": moved.removed} if moved else {}
        data = DataChange(digest=now.digest, rows=now.rows, before=before, **told)
        self.tell(
            plan,
            entry={
                "state": State.TRAINING,
                "run": context["run_id"],
                "at": timestamp(datetime.now(UTC)),
                "dataset": data.to_xcom(),
                **_origin(plan),
            },
            dataset=dataset,
            trained=timestamp(datetime.now(UTC)),
        )
        return ChangeJudged(why=found.why, dataset=data).to_xcom()

    def _before(self, live: Mapping[str, Any], known: Mapping[str, Any]) -> Rows | None:
        """What was learnt from last: by a retraining, or by the Workspace's own tuning, as its volume tells."""
        if known.get("digest"):
            return Rows(str(known["digest"]), int(known.get("rows") or 0))
        kept = kept_adapter.seen(self.cluster, live) if live else None
        if kept is None or not kept.dataset.get("digest"):
            return None
        return Rows(str(kept.dataset["digest"]), int(kept.dataset.get("rows") or 0))
