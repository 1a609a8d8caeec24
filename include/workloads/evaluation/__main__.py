"""`python -m include.workloads.evaluation`: evaluates a candidate adapter, as the pod does after a tuning."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include.contracts.exit_codes import ExitCode
from include.workloads import contract

_EPILOG = """
environment:
  WEIGHTS_PATH            the base model's folder (/workspace/weights)
  OUTPUT_DIR              the tuning's results: adapter/, trained-rows.txt, held-out-rows.txt; the report goes to
                          evaluation/<digest>/ in it (/mnt/results)
  DATASET_FOLDER_PATH     the folder of train.parquet (/mnt/data)
  CURRENT_ADAPTER_DIR     the adapter that is served now, if any
  GOLDEN_SET_PATH         a golden set: YAML, JSON or JSON lines, if any
  LM_EVAL_TASKS           names of lm-eval tasks with commas between, if any; with it LM_EVAL_LIMIT (rows of each),
                          LM_EVAL_FEW_SHOT (solved rows before each), LM_EVAL_FOLDER (the image's own tasks)
  MAX_TOKENS, SEED, HELD_OUT_PROMPTS, JUDGE_URL, JUDGE_MODEL, JUDGE_API_KEY, DTYPE, MODEL_ID, MODEL_REVISION

exit codes: 0, 64 (configuration), 65 (golden set, rows or adapters), 75 (try again), 1 (fault of this program)
"""


def _main() -> Mapping[str, Any]:
    from include.workloads.evaluation.job import main

    return main()


def _check(path: Path) -> int:
    """Read a golden set and say what is wrong with it."""
    from include.contracts.golden_set import GoldenSetInvalid, read

    try:
        found = read(path.read_bytes())
    except OSError as error:
        sys.stderr.write(f"{path} cannot be read: {error.strerror}.\n")
        return ExitCode.CONFIG
    except GoldenSetInvalid as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.DATA
    sys.stdout.write(f"{len(found.rows)} rows, {', '.join(sorted(found.matchers))}; {found.digest}\n")
    return ExitCode.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m include.workloads.evaluation",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="only check a golden set")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(_check(arguments.check))

    from include.workloads.hardware import prepare_environment

    prepare_environment()
    # The first SIGTERM only sets the flag that the measurement reads between its batches.
    contract.run(_main, on_stop=lambda: None)
