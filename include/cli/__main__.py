"""`python -m include.cli VERB`: see main.py. It also brings the planner, so that `check` can show the plan."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

# pydantic looks through every installed package for plugins of its own, which costs a tenth of a start; none is used.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if TYPE_CHECKING:
    from include.catalog import Catalog
    from include.planning.candidates import Candidates
    from include.workspace.api.models import Workspace
    from include.workspace.validation.rules import Policy


def plan_for(
    workspace: Workspace, config: Mapping[str, Any] | None, policy: Policy, catalog: Catalog
) -> Candidates | None:
    """The planner that `check` shows plans of; None for BYO nodes."""
    from include.planning.candidates import candidates

    if policy.of(workspace).byo and not workspace.instance_type:
        return None  # the nodes' own labels decide, and only the cluster has them
    return candidates(workspace, catalog, config)


def run(words: Sequence[str] | None = None) -> int:
    """The exit code, also when the reader of a pipe has gone (`| head`) or the user interrupts."""
    # Nothing that a start makes is garbage, and looking for it takes a tenth of the start; at its end Python would
    # look through all of it once more, which takes a sixth.
    gc.set_threshold(100_000, 50, 50)
    try:
        return _run(words)
    finally:
        gc.freeze()


def _run(words: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")  # a terminal without UTF-8 still gets every line
    try:
        from include.cli.main import main  # after the threshold is set: importing is most of a start

        code = main(words, planner=plan_for)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to complain at exit
        return 141  # as a shell calls the end by SIGPIPE
    except KeyboardInterrupt:
        return 130
    return code


def complete() -> int:
    """What kubectl runs for completion, as the script `kubectl_complete-kaito`."""
    from include.cli.arguments import COMPLETE

    return run([COMPLETE, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run())
