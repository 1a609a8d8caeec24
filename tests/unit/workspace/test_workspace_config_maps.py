"""ConfigMaps that Workspaces use are checked with them, at their own lines; the plan uses the training config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.cli.checking import Plan, check
from include.cli.report import DocumentReport, Report
from include.cli.rule_texts import SENTENCES
from include.cli.sources import Source
from include.workspace import Policy, Workspace
from tests.support.workspaces import SERVING, TUNING, changed

PACKAGE = Path(__file__).parents[3] / "include" / "workspace"
RUN = Path(__file__).parents[3] / "plugins" / "kaito"
WORKSPACE = yaml.safe_dump(changed(TUNING, {"tuning.config": "mine"}))
CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: mine, namespace: ml}
data:
  training_config.yaml: |
    training_config:
      QuantizationConfig:
        load_in_4bit: true
      TrainingArguments:
        output_dir: /etc
"""
SERVED = yaml.safe_dump(changed(SERVING, {"inference.config": "mine"}))
ARGUMENTS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: mine}
data:
  inference_config.yaml: |
    vllm:
      max-model-len: many
"""


class Planned:
    def to_dict(self) -> dict[str, Any]:
        return {"nodes": 1}

    def sentences(self) -> list[str]:
        return ["A plan."]


def examine(*texts: str, planner: Any = None) -> tuple[Report, DocumentReport]:
    sources = [Source(f"{index}.yaml", text.encode()) for index, text in enumerate(texts)]
    report = check(sources, Policy(), planner)
    return report, next(report.workspaces())


def told(document: DocumentReport) -> list[tuple[str, int, int, str, str]]:
    return [(one.file, one.line, one.column, one.config_map, one.fault.rule) for one in document.faults]


def test_a_fault_of_a_config_is_told_at_its_line_in_the_config_map() -> None:
    for texts in ((WORKSPACE, CONFIG), (CONFIG, WORKSPACE)):  # in whichever order the files come
        _, document = examine(*texts)
        assert told(document) == [(f"{texts.index(CONFIG)}.yaml", 10, 9, "mine", "M9")]
    assert told(examine(WORKSPACE + "---\n" + CONFIG)[1])[0][1] == WORKSPACE.count("\n") + 11


def test_a_server_s_config_is_checked_with_the_model() -> None:
    _, document = examine(SERVED, ARGUMENTS)
    assert told(document) == [("1.yaml", 7, 7, "mine", "V5")]
    _, document = examine(SERVED, ARGUMENTS.replace("many", "999999999"))
    assert ("1.yaml", 7, 7, "mine", "V6") in told(document)
    assert not examine(SERVED, ARGUMENTS.replace("many", "4096"))[1].faults


@pytest.mark.parametrize(
    ("config", "line", "rule"),
    [
        (CONFIG.replace("training_config.yaml", "training_configs.yaml"), 4, "M2"),
        (CONFIG.replace("\ndata:", "\nbinaryData:"), 1, "M2"),
        (CONFIG.replace(": |", ":"), 5, "M2"),  # a mapping, where text belongs
        (CONFIG.replace("load_in_4bit: true", "load_in_4bit: ["), 10, "M3"),
        (
            CONFIG.replace(": |", ": >").replace("\n    ", "\n\n    "),
            5,
            "M9",
        ),  # folded: the key is near enough
    ],
)
def test_a_config_map_without_a_usable_file(config: str, line: int, rule: str) -> None:
    found = told(examine(WORKSPACE, config)[1])[0]
    assert (found[0], found[1], found[4]) == ("1.yaml", line, rule)


@pytest.mark.parametrize(
    ("namespace", "used"), [("namespace: ml", True), ("labels: {}", True), ("namespace: other", False)]
)
def test_a_config_map_of_another_namespace_is_another_one(namespace: str, used: bool) -> None:
    report, document = examine(WORKSPACE, CONFIG.replace("namespace: ml", namespace))
    assert bool(document.faults) is used
    assert report.files[1].documents[0].used is used
    assert any("is not in these files" in notice for notice in document.notices) is not used


def test_of_two_the_one_in_the_workspace_s_namespace_is_used() -> None:
    other = CONFIG.replace(", namespace: ml", "").replace("/etc", "/mnt/x")
    assert told(examine(WORKSPACE, other, CONFIG)[1]) == [("2.yaml", 10, 9, "mine", "M9")]


def test_the_plan_is_made_with_the_training_config() -> None:
    seen: list[Mapping[str, Any] | None] = []

    def planner(workspace: Workspace, training: Mapping[str, Any] | None, policy: Policy, _: Any) -> Plan:
        seen.append(training)
        return Planned()

    _, document = examine(WORKSPACE, CONFIG.replace("/etc", "/mnt/results"), planner=planner)
    assert (document.faults, document.plan, document.sentences) == ([], {"nodes": 1}, ["A plan."])
    assert seen == [
        {
            "training_config": {
                "QuantizationConfig": {"load_in_4bit": True},
                "TrainingArguments": {"output_dir": "/mnt/results"},
            }
        }
    ]
    examine(WORKSPACE, CONFIG, planner=planner)
    assert len(seen) == 1, "nothing is planned that has faults"


@pytest.mark.parametrize("error", [KeyError("no such machine"), ValueError("does not fit")])
def test_what_cannot_be_planned_is_a_fault(error: Exception) -> None:
    def planner(*_: Any) -> Plan:
        raise error

    report, document = examine(yaml.safe_dump(TUNING), planner=planner)
    assert told(document)[0][4] == "N1"
    assert report.exit_code == 1


def test_items_of_a_list_are_found_where_they_stand() -> None:
    items = "kind: List\nitems:\n- kind: Pod\n- " + WORKSPACE.replace("\n", "\n  ").replace("qlora", "dora")
    report, document = examine(items)
    method = 1 + items[: items.index("method:")].count("\n")
    assert told(document) == [("0.yaml", method, 5, "", "U1")]
    assert [one.kind for one in report.files[0].documents] == ["Pod", "Workspace"]


def test_every_rule_that_a_fault_carries_has_its_sentence() -> None:
    files = [
        *PACKAGE.rglob("*.py"),
        *(PACKAGE.parent / "contracts").glob("*.py"),
        *(PACKAGE.parent / "retraining").glob("*.py"),
        *(PACKAGE.parent / "cli").glob("[!r]*.py"),
    ]
    files += [
        *(RUN / "operators").glob("*.py"),
        *(RUN / "tasks").glob("*.py"),
        RUN / "controller" / "references.py",
    ]
    used = {rule for file in files for rule in re.findall(r'"([A-Z]\d{1,2})"', file.read_text())}
    assert set(SENTENCES) == used


POLICED = yaml.safe_dump(changed(TUNING, {"metadata.annotations": {"kaito.sh/retrain-policy": "rules"}}))
RULES = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: rules}
data:
  retrain_policy.yaml: |
    evaluation: {goldenSet: golden, heldOut: 0}
    gate: [candidate.exact_match >= current.exact_match]
"""
GOLDEN = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: golden}
data:
  golden.yaml: |
    - {prompt: one, expected: two}
"""


def test_a_policy_and_its_golden_set_are_checked_together() -> None:
    _, document = examine(POLICED, RULES, GOLDEN)
    assert told(document) == []
    assert not [notice for notice in document.notices if "golden" in notice]


def test_a_broken_row_of_a_golden_set_is_named_at_its_line() -> None:
    _, document = examine(POLICED, RULES, GOLDEN + "    - {prompt: three, matcher: exakt}\n")
    faults = told(document)
    assert {(file, line, name, rule) for file, line, _, name, rule in faults} == {
        ("2.yaml", 7, "golden", "E2")
    }
    assert "did you mean exact" in " ".join(str(one.fault) for one in document.faults)


def test_a_gate_on_what_this_golden_set_does_not_measure_is_named_in_the_policy() -> None:
    text = GOLDEN.replace("expected: two", "expected: two, matcher: contains")
    _, document = examine(POLICED, RULES, text)
    assert [(file, name, rule) for file, _, _, name, rule in told(document)] == [("1.yaml", "rules", "E1")]
    assert "exact_match" in str(document.faults[0].fault)


def test_a_policy_with_a_wrong_key_still_has_its_gate_and_its_golden_set_checked() -> None:
    policy = "{keep: 0, evaluation: {goldenSet: golden, heldOut: 1}, gate: [candidate.exct_match > 0]}"
    rules = RULES[: RULES.index("    evaluation")] + f"    {policy}\n"
    _, document = examine(POLICED, rules, GOLDEN.replace("two}", "two, matcher: exakt}"))
    found = [str(one.fault) for one in document.faults]
    for says in ("keep", "evaluation.heldOut", "did you mean exact_match", "did you mean exact?"):
        assert any(says in one for one in found), found
    assert len(found) == 4


def test_a_golden_set_over_the_limit_is_refused() -> None:
    rows = "".join(f"    - {{prompt: q{n}, expected: a}}\n" for n in range(2001))
    _, document = examine(POLICED, RULES, GOLDEN + rows)
    assert "more than 2000 rows" in str(document.faults[0].fault)


def test_a_golden_set_of_json_lines_or_without_its_key_is_named_too() -> None:
    lines = GOLDEN.replace("- {prompt: one, expected: two}", '{"prompt": "one", "expected": "two"}')
    _, document = examine(POLICED, RULES, lines + '    {"prompt": "three"}\n')
    assert [(one.file, one.fault.rule) for one in document.faults] == [("2.yaml", "E2")]
    assert "line 2" in str(document.faults[0].fault)
    _, document = examine(POLICED, RULES, GOLDEN.replace("golden.yaml", "gold.yaml"))
    assert [(one.file, one.fault.rule) for one in document.faults] == [("2.yaml", "E2")]
    _, document = examine(POLICED, RULES)
    assert any("ConfigMap golden is not in these files" in notice for notice in document.notices)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (
            "evaluation: {heldOut: 1}",
            "evaluation.heldOut: leaves too little to train on; write one from 0 to 0.9",
        ),
        ("watch: {every: 0s}", "watch.every: would be without a pause; write 1m or more"),
        ("{evaluation: {}, gate: [candidate.golden > 0]}", "does not measure"),
        ("{evaluation: {}, gate: [candidate.perplexty < 3]}", "did you mean perplexity"),
        ("{evaluation: {heldOut: 0, goldenSet: golden}, gate: [candidate.judge > 0]}", "does not measure"),
        ("evaluation: {goldenSet: {url: 'https://example.com/a?sig=x'}}", "evaluation.goldenSet.url"),
        ("evaluation: {lmEval: [arc easy]}", "evaluation.lmEval.tasks: has no name of a task in 'arc easy'"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_named_with_the_line(policy: str, says: str) -> None:
    rules = RULES[: RULES.index("    evaluation")] + f"    {policy}\n"
    _, document = examine(POLICED, rules, GOLDEN)
    [found] = document.faults
    assert (found.file, found.line, found.config_map) == ("1.yaml", 6, "rules")
    assert says in str(found.fault)
