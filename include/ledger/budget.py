"""Whether money is left: what was spent and what a plan is expected to cost, against a Workspace's budget.

The sentences name the numbers, so that whoever set the budget can decide. Estimates are estimates: they refuse a start,
never stop what runs; only what was really spent does.
"""

from __future__ import annotations


def dollars(usd: float) -> str:
    """An amount for people: cents, and more digits below a cent."""
    return f"{usd:,.2f} USD" if usd == 0 or usd >= 0.01 else f"{usd:.4f} USD"


def spent_all(budget: float | None, spent: float) -> str:
    """A sentence when a budget is spent, "" while there is some left or no budget at all."""
    if budget is None or spent < budget:
        return ""
    return f"The budget of {dollars(budget)} is spent: the machines of this Workspace have cost {dollars(spent)}."


def over_budget(budget: float | None, spent: float, estimate: float, what: str) -> str:
    """A sentence when what was spent and an estimate together exceed a budget, "" when they do not.

    `what` is what the estimate is for, such as "starting the service".
    """
    if budget is None or spent + estimate <= budget:
        return ""
    before = f"{dollars(spent)} are spent and " if spent else ""
    return f"{before}{what} is estimated at {dollars(estimate)}, more than the budget of {dollars(budget)} allows"
