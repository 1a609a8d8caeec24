"""What may come next on the command line: verbs, options, their choices, and names of Workspaces in the cluster.

kubectl asks `kubectl_complete-kaito` with the words so far, and wants candidates a line each, then a directive.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from include.cli.arguments import DELEGATED
from include.cli.arguments import parser as grammar

#: Directives of kubectl's completion (cobra's): files may follow; nothing but the candidates may.
FILES, ONLY_THESE = ":0", ":4"
#: Seconds that a cluster has to name its Workspaces: people wait with a finger on the tab key.
PATIENCE = 3.0


def candidates(
    words: Sequence[str], workspaces: Callable[[str | None], Sequence[Any]] | None = None
) -> list[str]:
    """The candidates for the last of `words` (it may be empty or half a word), and the directive.

    :param workspaces: gives the Workspaces of a namespace; default: those of the current kubeconfig.
    """
    *before, last = words or [""]
    if not before:
        return [*_starting(_verbs(), last), ONLY_THESE]
    options = _options(before[0])
    if options is None:
        return [ONLY_THESE]
    by_flag = {flag: option for option in options for flag in option.option_strings}
    pending = by_flag.get(before[-1])
    if pending is not None and pending.nargs != 0:
        return _values(pending, last, workspaces or _of_cluster)
    if last.startswith("-"):
        return [*_starting((flag for flag in by_flag if flag.startswith("--")), last), ONLY_THESE]
    places = [option for option in options if not option.option_strings]
    if any(place.dest == "name" for place in places) and before[0] in ("status", "logs", "chat"):
        named = _named(before, by_flag, workspaces or _of_cluster)
        return [*_starting(named, last), ONLY_THESE]
    return [FILES if any(place.dest in ("file", "files", "folders") for place in places) else ONLY_THESE]


def _verbs() -> list[str]:
    return list(_subparsers())


def _subparsers() -> dict[str, argparse.ArgumentParser]:
    found = next(action for action in grammar()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _options(verb: str) -> list[argparse.Action] | None:
    """The options and arguments of a verb; None where there is no such verb."""
    if verb in DELEGATED:
        module, function = DELEGATED[verb].parser.split(":")
        return list(getattr(import_module(module), function)()._actions)
    known = _subparsers().get(verb)
    return list(known._actions) if known else None


def _values(
    option: argparse.Action, last: str, workspaces: Callable[[str | None], Sequence[Any]]
) -> list[str]:
    if option.choices:
        return [*_starting((str(one) for one in option.choices), last), ONLY_THESE]
    if option.dest == "namespace":
        spaces = {str(one["metadata"]["namespace"]) for one in workspaces(None)}
        return [*_starting(sorted(spaces), last), ONLY_THESE]
    return [FILES if option.dest in ("file", "prices") else ONLY_THESE]


def _named(
    before: Sequence[str],
    by_flag: dict[str, argparse.Action],
    workspaces: Callable[[str | None], Sequence[Any]],
) -> list[str]:
    """Names of the Workspaces in the namespace that the words before name; none once one is named."""
    namespace, words = "default", iter(before[1:])
    for word in words:
        option = by_flag.get(word)
        if option is None:
            return []  # the Workspace is there already
        if option.nargs != 0:
            value = next(words, "")
            namespace = value if option.dest == "namespace" else namespace
    return sorted(str(one["metadata"]["name"]) for one in workspaces(namespace))


def _starting(words: Iterable[str], part: str) -> list[str]:
    return [word for word in words if word.startswith(part)]


def _of_cluster(namespace: str | None) -> Sequence[Any]:
    """The Workspaces of the cluster; none where it does not answer: completion never prints an error."""
    from include.cli.cluster import Cluster
    from include.ledger.sources import SourceError

    try:
        return Cluster(seconds=PATIENCE).workspaces(namespace)
    except SourceError:
        return []
