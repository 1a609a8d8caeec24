"""`python -m include.workspace VERB`: see cli.py. It stands above the package, so that `check` can show the plan."""

import sys

from include.workspace import Workspace
from include.workspace.cli import main


def _explain(workspace: Workspace) -> list[str]:
    from include.catalog import load_catalog
    from include.planning import plan

    return plan(workspace, load_catalog()).sentences()


if __name__ == "__main__":
    sys.exit(main(explain=_explain))
