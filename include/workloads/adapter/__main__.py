"""`python -m include.workloads.adapter COMMAND`: publish an adapter, or get those that a server is to have."""

import sys

from include.workloads.adapter.follow import follow, prepare
from include.workloads.adapter.pull import pull_adapter
from include.workloads.adapter.push import push_adapter
from include.workloads.contract import UserConfigError, run

COMMANDS = {"push": push_adapter, "pull": pull_adapter, "prepare": prepare, "follow": follow}


def main() -> dict[str, object] | None:
    """Run the command named on the command line."""
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) == 2 else "")
    if command is None:
        raise UserConfigError("Usage: python -m include.workloads.adapter push|pull|prepare|follow")
    return command()


if __name__ == "__main__":
    run(main)
