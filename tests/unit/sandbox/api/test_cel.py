"""CEL rules of custom resources: Kubernetes' own functions, changes, and what cannot be evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.crd import cel_rules
from sandbox.api.crd.cel_functions import FUNCTIONS

Json = dict[str, Any]


RULES = [
    "'LoRA'.lowerAscii() == 'lora'",
    "'é'.upperAscii() == 'é'",
    "' a '.trim() == 'a'",
    "'abc'.charAt(1) == 'b' && 'abc'.charAt(3) == ''",
    "'abcb'.indexOf('b') == 1 && 'abcb'.lastIndexOf('b') == 3 && [1, 2].indexOf(2) == 1",
    "'abc'.substring(1) == 'bc' && 'abc'.substring(0, 1) == 'a'",
    "'aaa'.replace('a', 'b') == 'bbb' && 'aaa'.replace('a', 'b', 1) == 'baa'",
    "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
    "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
    "[1, 2].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3",
    "'phi-3'.find('[0-9]') == '3' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
    "isURL('https://x.org/a') && !isURL('nothing')",
    "url('https://x.org:8443/a?q=1').getHost() == 'x.org:8443'",
    "url('https://x.org:8443/a?q=1').getHostname() == 'x.org'",
    "url('https://x.org:8443/a?q=1').getScheme() == 'https' && url('https://x.org:8443').getPort() == '8443'",
    "url('https://x.org/a%20b?q=1').getEscapedPath() == '/a%20b' && url('/a?q=1').getQuery() == {'q': ['1']}",
    "isIP('127.0.0.1') && !isIP('x') && isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0')",
]


def broken(rule: str, value: Any, old: Any = None, **more: Any) -> list[str]:
    schema = {"x-kubernetes-validations": [{"rule": rule, "message": "broken", **more}]}
    return [f"{fault.field}: {fault.detail}" for fault in cel_rules.faults(schema, value, old, "spec")]


@pytest.mark.parametrize("rule", RULES)
def test_functions_that_kubernetes_adds(rule: str) -> None:
    assert broken(rule, {}) == []
    assert broken(f"!({rule})", {}) == ["spec: broken"], "the rule must run, not be skipped"


def test_every_function_has_a_rule_above() -> None:
    assert [name for name in FUNCTIONS if not any(f"{name}(" in rule for rule in RULES)] == []


@pytest.mark.parametrize(
    ("value", "old", "faults"),
    [
        ({"method": "LoRA"}, {"method": "lora"}, []),
        ({"method": "qlora"}, {"method": "lora"}, ["spec: broken"]),
        ({"method": "qlora"}, None, []),  # a new object: nothing to compare with
    ],
)
def test_a_transition_rule_with_a_function_is_honoured(value: Json, old: Json | None, faults: list) -> None:
    assert broken("self.method.lowerAscii() == oldSelf.method.lowerAscii()", value, old) == faults


def test_what_was_broken_before_is_forgiven_until_it_changes() -> None:
    assert broken("self.a < 3", {"a": 3}, {"a": 3}) == []
    assert broken("self.a < 3", {"a": 4}, {"a": 3}) == ["spec: broken"]
    assert broken("self.a < oldSelf.a", {"a": 3}, {"a": 3}) == [
        "spec: broken"
    ]  # a rule about the change itself


def test_a_field_path_names_the_field() -> None:
    assert broken("has(self.a)", {}, fieldPath=".a") == ["spec.a: broken"]


def test_what_cannot_be_evaluated_is_said_once_and_refuses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rule = "self.noSuchFunctionAnywhere() == 1"
    assert broken(rule, {}) == []
    assert broken(rule, {}) == []
    assert len([record for record in caplog.records if "noSuchFunctionAnywhere" in record.message]) == 1


def test_objects_and_lists_are_not_printed_and_scalars_are() -> None:
    rule = {"x-kubernetes-validations": [{"rule": "false", "message": "broken"}]}
    shown = [
        str(fault) for value in ({}, [], "x", 3) for fault in cel_rules.faults(rule, value, None, "spec.a")
    ]
    head = "spec.a: Invalid value:"
    assert shown == [f"{head} broken", f"{head} broken", f'{head} "x": broken', f"{head} 3: broken"]
