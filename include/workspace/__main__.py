"""`python -m include.workspace VERB`: see cli.py."""

import sys

from include.workspace.cli import main

if __name__ == "__main__":
    sys.exit(main())
