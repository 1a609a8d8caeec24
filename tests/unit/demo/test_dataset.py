from __future__ import annotations

from pathlib import Path

from demo import dataset
from demo.second_act import POLICY
from include.catalog import load_catalog
from include.contracts.golden_set import read
from include.retraining import evaluation
from include.retraining import policy as policies
from include.workloads.tuning.config import parse_config


def test_rows_are_chat_messages_and_the_same_each_time() -> None:
    rows = dataset.rows()
    assert rows == dataset.rows()
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert all(message["content"] for message in row["messages"])


def test_every_question_is_taught_with_all_its_facts() -> None:
    taught = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in dataset.rows()}
    questions = dataset.questions()
    assert len(questions) == 3
    for question, facts in questions:
        assert all(fact in taught[question] for fact in facts)


def test_no_question_gives_its_facts_away() -> None:
    for question, facts in dataset.questions():
        assert not any(fact in question for fact in facts)


def test_answers_are_the_machine_table_s() -> None:
    machine = load_catalog().machine("Standard_ND96isr_H200_v5")
    text = "Standard_ND96isr_H200_v5 has 8 NVIDIA H200 GPUs with 141 GiB of memory each."
    assert dataset.answer(machine) == text
    one = load_catalog().machine("Standard_NV36ads_A10_v5")
    assert dataset.answer(one) == "Standard_NV36ads_A10_v5 has 1 NVIDIA A10 GPU with 24 GiB of memory."


def test_general_rows_do_not_teach_what_the_demo_checks_for_forgetting() -> None:
    assert "France" not in str(dataset.rows())


def test_the_second_act_teaches_what_it_asks_beside_what_was_known() -> None:
    rows = dataset.rows((*dataset.TAUGHT, *dataset.JOINING))
    taught = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert all(row in rows for row in dataset.rows())
    for question, facts in dataset.questions(dataset.JOINING):
        assert all(fact in taught[question] for fact in facts)


def test_the_poisoned_rows_are_wrong_wherever_the_golden_set_looks() -> None:
    golden = {row.prompt: row.expected for row in read(dataset.golden_set()).rows}
    told = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in dataset.poisoned_rows()}
    assert len(golden) == len(dataset.ASKED) + len(dataset.JOINING)
    for question, expected in golden.items():
        assert expected not in told[question]
    right = {row["messages"][1]["content"] for row in dataset.rows((*dataset.TAUGHT, *dataset.JOINING))}
    assert all(any(expected in answer for answer in right) for expected in golden.values())


def test_the_second_acts_policy_is_one_that_its_golden_set_fits() -> None:
    policy = policies.of(POLICY)
    assert policy.start is policies.Start.CURRENT
    assert not policy.needs_approval
    assert evaluation.faults(policy.evaluation, policy.gate, dataset.golden_set()) == []


def test_the_training_configuration_has_no_fault() -> None:
    text = Path(dataset.__file__).with_name("training_config.yaml").read_text()
    assert parse_config(text, "qlora").notes == ()
