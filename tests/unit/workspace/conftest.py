"""Makes the sample Workspaces importable: tests are not packages here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
