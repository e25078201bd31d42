"""math-verify in a process of its own: what hangs or takes all memory ends this process and nothing else.

A line in: `[answer, completion]` in JSON. A line out: `1` equal, `0` not. The process dies on an expression
that takes more CPU time than it may.

python -m runs.tasks.math_worker SECONDS BYTES
"""

from __future__ import annotations

import json
import resource
import signal
import sys


def main() -> None:
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    print("ready", flush=True)
    for line in sys.stdin:
        answer, completion = json.loads(line)
        # Its default action ends the process, inside a library's long computation too.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            right = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
            said = parse(completion, parsing_timeout=None)
            equal = verify(right, said, timeout_seconds=None)
        except Exception:  # sympy raises many kinds on what a model writes; none of that is the answer
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(equal), flush=True)


if __name__ == "__main__":
    main()
