"""The evaluation runs where the tuning ran, sees what it needs to read, and no secret in plain text."""

from __future__ import annotations

from typing import Any

from include import manifests
from include.contracts.evaluation_policy import EvaluationPolicy, JudgePolicy, LmEvalPolicy
from include.manifests import Evaluated
from include.planning import Plan, plan
from include.workspace import parse_workspace
from tests.support.manifests import CATALOG, DIGEST, QUICK, RUN, SETTINGS, env_of, mounts_of

PLAN: Plan = plan(parse_workspace(QUICK), CATALOG)
FULL = EvaluationPolicy(
    golden_set="questions",
    max_tokens=64,
    judge=JudgePolicy(url="https://judge.example/v1", model="big", secret="judge-key"),
)


def pod(policy: EvaluationPolicy = FULL, evaluated: Evaluated | None = None) -> dict[str, Any]:
    return manifests.evaluation_pod(QUICK, PLAN, SETTINGS, RUN, policy, evaluated or Evaluated())


def main(made: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = made["spec"]["containers"][0]
    return container


def test_it_runs_where_the_tuning_ran() -> None:
    tuning, made = manifests.tuning_pod(QUICK, PLAN, SETTINGS, RUN), pod()
    for key in (
        "affinity",
        "tolerations",
        "securityContext",
        "automountServiceAccountToken",
        "restartPolicy",
    ):
        assert made["spec"][key] == tuning["spec"][key], key
    for key in ("resources", "securityContext", "image"):
        assert main(made)[key] == main(tuning)[key], key
    assert made["metadata"]["labels"]["kaito.sh/component"] == "evaluation"
    assert made["metadata"]["name"] != tuning["metadata"]["name"]
    assert made["spec"]["activeDeadlineSeconds"] > 0
    selected = manifests.egress_policy(QUICK, SETTINGS)["spec"]["podSelector"]["matchExpressions"][0][
        "values"
    ]
    assert "evaluation" in selected


def test_the_current_adapter_is_pulled_by_digest_and_the_golden_set_is_mounted() -> None:
    made = pod(evaluated=Evaluated(DIGEST, "weights", "trained", "dataset"))
    pull = made["spec"]["initContainers"][-1]
    assert env_of(pull)["ADAPTER_IMAGE"] == DIGEST
    env = env_of(main(made))
    assert env["CURRENT_ADAPTER_DIR"] == f"{env_of(pull)['ADAPTERS_DIR']}/{env_of(pull)['ADAPTER_NAME']}"
    assert env["CURRENT_ADAPTER_DIGEST"] == DIGEST.partition("@")[2]
    assert (env["ADAPTER_SHA256"], env["TRAINED_ROWS_DIGEST"], env["DATASET_DIGEST"]) == (
        "weights",
        "trained",
        "dataset",
    )
    assert env["GOLDEN_SET_PATH"] == "/mnt/golden/golden.yaml"
    assert mounts_of(main(made))["/mnt/golden"] == ("golden", None, True)
    assert {"name": "golden", "configMap": {"name": "questions"}} in made["spec"]["volumes"]


def test_the_judges_key_is_a_reference() -> None:
    (key,) = (one for one in main(pod())["env"] if one["name"] == "JUDGE_API_KEY")
    assert key["valueFrom"] == {"secretKeyRef": {"name": "judge-key", "key": "API_KEY"}}


def test_tasks_of_lm_eval_are_named_with_their_limits() -> None:
    wanted = LmEvalPolicy(tasks=("arc_easy", "piqa"), limit=50)
    env = env_of(main(pod(EvaluationPolicy(lm_eval=wanted))))
    assert {name: env[name] for name in env if name.startswith("LM_EVAL")} == {
        "LM_EVAL_TASKS": "arc_easy,piqa",
        "LM_EVAL_LIMIT": "50",
    }


def test_without_golden_set_judge_and_current_there_is_none_of_them() -> None:
    made = pod(EvaluationPolicy())
    names = {one["name"] for one in main(made)["env"]}
    assert not names & {"GOLDEN_SET_PATH", "JUDGE_URL", "JUDGE_API_KEY", "CURRENT_ADAPTER_DIR"}
    assert [one["name"] for one in made["spec"].get("initContainers", [])] == ["weights"]


def test_the_tuning_holds_out_what_the_annotation_says() -> None:
    asked = {**QUICK, "metadata": {**QUICK["metadata"], "annotations": {"kaito.sh/held-out-share": "0.2"}}}
    assert env_of(main(manifests.tuning_pod(asked, PLAN, SETTINGS, RUN)))["HELD_OUT_SHARE"] == "0.2"
    assert "HELD_OUT_SHARE" not in env_of(main(manifests.tuning_pod(QUICK, PLAN, SETTINGS, RUN)))


def test_a_training_gets_a_tracker_s_keys_one_by_one_and_never_the_whole_secret() -> None:
    notes = {"kaito.sh/tracking-secret": "mine"}
    asked = {**QUICK, "metadata": {**QUICK["metadata"], "annotations": notes}}
    container = main(manifests.tuning_pod(asked, PLAN, SETTINGS, RUN))
    given = {one["name"]: one["valueFrom"] for one in container["env"] if "valueFrom" in one}
    assert given["WANDB_API_KEY"] == {
        "secretKeyRef": {"name": "mine", "key": "WANDB_API_KEY", "optional": True}
    }
    assert "envFrom" not in container
    for pod in (
        manifests.dataset_pod(asked, PLAN, SETTINGS, RUN),
        manifests.tuning_pod(QUICK, PLAN, SETTINGS, RUN),
    ):
        assert "WANDB_API_KEY" not in {one["name"] for one in main(pod)["env"]}


def test_dataset_and_training_know_the_objective() -> None:
    asked = {**QUICK, "metadata": {**QUICK["metadata"], "annotations": {"kaito.sh/tuning-objective": " DPO"}}}
    for given, wanted in ((asked, "dpo"), (QUICK, "sft")):
        for pod in (manifests.dataset_pod, manifests.tuning_pod):
            assert env_of(main(pod(given, PLAN, SETTINGS, RUN)))["TUNING_OBJECTIVE"] == wanted


def test_the_report_goes_with_the_push() -> None:
    made = manifests.adapter_pod(QUICK, PLAN, SETTINGS, RUN, report=("evaluation/0/report.json", "sha256:1"))
    assert env_of(main(made))["EVALUATION_DIR"] == "/mnt/results/evaluation/0"
    assert env_of(main(made))["EVALUATION_DIGEST"] == "sha256:1"
    assert "EVALUATION_DIR" not in env_of(main(manifests.adapter_pod(QUICK, PLAN, SETTINGS, RUN)))
