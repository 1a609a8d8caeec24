"""One test per rule of KAITO's contract, by its number."""

from __future__ import annotations

import pytest
from contract_rules import UPDATES, Update
from workspaces import changed

from include.catalog import load_catalog
from include.workspace import examine_update

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("rule", "case"), [pytest.param(rule, case, id=rule) for rule, cases in UPDATES.items() for case in cases]
)
def test_update(rule: str, case: Update) -> None:
    _, faults = examine_update(changed(case.before, case.changes), case.before, CATALOG, case.policy)
    assert (case.told_as or rule, case.path) in [(fault.rule, fault.path) for fault in faults]
