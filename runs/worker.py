"""One run in a process of its own: a lane. The job comes as JSON on standard input.

{"recipe": {...}, "out": "runs-out", "threads": 1}
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from scramble.errors import ScrambleError, one_line
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Exit code 0 finished, 2 failed; the reason is the last line of standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    job = json.load(sys.stdin)
    if os.getppid() != job["parent"]:  # it died before the line above
        return 2
    try:
        run(Recipe.model_validate(job["recipe"]), Path(job["out"]), threads=job["threads"])
    except ScrambleError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
