"""Who makes machines is decided in two folders: nothing else may name a provider."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
WORDS = re.compile(
    r"node_?claim|node_?pool|agent_?pool|agent pool|\baks|karpenter|ProviderName\.[A-Z]"
    r"|(==|!=|\bin\b)\s*\(?[\"'](byo|nodeclaim|nodepool|aks)\b|isinstance\([^)]*(OwnNodes|NodeClaims|NodePools|AgentPools)",
    re.IGNORECASE,
)
#: Conditions and reasons keep KAITO's names, which users see.
KAITOS = re.compile(r"NODE_CLAIMS?_(NOT_)?READY|NodeClaims?(Not)?Ready")
ALLOWED = {
    "include/pools/": "what each provider makes, and what that says",
    "plugins/kaito/providers/": "who makes machines",
    "plugins/kaito/hooks/aks.py": "the connection to Azure",
    "plugins/kaito/hooks/aks_calls.py": "what is asked over it",
    "plugins/kaito/hooks/azure_account.py": "the connection to Azure",
    "plugins/kaito/settings.py": "settings",
    "include/workspace/validation/": "rules speak of BYO as KAITO's API does",
    "include/workspace/api/names.py": "what the annotation may say, and labels that KAITO keeps for itself",
    "include/workspace/api/crd_status.py": "the text of the CRD",
    "include/cli/rule_texts.py": "the rules in words",
    "dags/kaito_janitor.py": "the documentation that Airflow shows",
}


def hits(text: str) -> list[str]:
    """The lines of a source that name a provider."""
    return [line.strip() for line in text.splitlines() if WORDS.search(KAITOS.sub("", line))]


def test_nothing_else_names_a_provider() -> None:
    found = {}
    for folder in ("include", "plugins", "dags"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            name = path.relative_to(PROJECT).as_posix()
            if not name.startswith(tuple(ALLOWED)) and (lines := hits(path.read_text())):
                found[name] = lines
    assert not found, "ask the provider (kaito.providers.base.PoolProvider) instead of asking who it is"


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("if choice.provider == 'aks':", True),
        ("from kaito.providers.nodepool import NODE_POOL", True),
        ("if settings.provider != ProviderName.BYO:", True),
        ("isinstance(machines, OwnNodes)", True),
        ("claims = cluster.list(NODE_CLAIM)", True),
        ("builder.condition(T.NODE_CLAIM_READY, True, R.NODE_CLAIMS_READY, message)", False),
        ("if not machines.makes_machines:", False),
    ],
)
def test_the_scan_sees_what_it_is_for(line: str, caught: bool) -> None:
    assert bool(hits(line)) is caught


def test_each_exception_is_needed() -> None:
    for place in ALLOWED:
        paths = [PROJECT / place] if place.endswith(".py") else sorted((PROJECT / place).rglob("*.py"))
        assert any(hits(path.read_text()) for path in paths), (
            f"{place} names no provider any more: take it out"
        )
