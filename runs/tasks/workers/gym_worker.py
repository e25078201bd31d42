"""A data set of reasoning-gym in a process of its own (see `worker`): it makes entries, and scores.

Some data sets follow the order of sets or the global generator, not their seed alone; here both are fixed.
Some scorers evaluate what a model wrote (`eval`, sympy's `parse_expr`); any may raise, hang or take all
memory. So each text is scored in a fork that was limited and isolated before, and that ends with the score:
nothing that a text does is there for the next. A text that is a program may still forge its own score.

Questions: the seed and size of a data set; with an index and a digest of that entry, and a text (`said`), its
score. Answers: JSON, `{"scored": ..., "entries": [[question, answer, digest], ...]}` or `{"refused": ...}`;
for a score `1` the full mark, `0` less or none, or else why there is no saying.

python -m scramble.runs.tasks.workers.gym_worker DATASET OPTIONS SECONDS BYTES
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from scramble.runs.sandbox.isolation import RefusedError, isolate
from scramble.runs.tasks.workers.worker import limited, serve

Entry = dict[str, Any]


def main() -> None:
    dataset, options = sys.argv[1], json.loads(sys.argv[2])
    seconds, memory = float(sys.argv[3]), int(sys.argv[4])
    import reasoning_gym

    @cache
    def made(seed: int, size: int) -> tuple[Any, list[Entry]]:
        data = reasoning_gym.create_dataset(dataset, seed=seed, size=size, **options)
        return data, [_entry(data, index) for index in range(size)]

    def listed(seed: int, size: int) -> dict[str, Any]:
        try:
            data, entries = made(seed, size)
        except Exception as error:  # data sets refuse their options in many ways
            return {"refused": " ".join(str(error).split()) or type(error).__name__}
        scored = type(data).score_answer is not reasoning_gym.dataset.ProceduralDataset.score_answer
        return {
            "scored": scored,
            "entries": [[one["question"], one["answer"], _digest(one)] for one in entries],
        }

    def answer(question: dict[str, Any]) -> str:
        place = question["seed"], question["size"]
        if "said" not in question:
            return json.dumps(listed(*place))
        data, entries = made(*place)
        entry = entries[question["index"]]
        if _digest(entry) != question["digest"]:
            return "it makes other entries from the same seed than before"
        score = data.score_answer
        return _apart(lambda said: str(int(score(said, entry) >= 1)), question["said"], seconds, memory)

    serve(answer)


def _entry(data: Any, index: int) -> Entry:
    random.seed(index)
    return dict(data[index])


def _digest(entry: Entry) -> str:
    """Of an entry's question and answer."""
    return hashlib.sha256(json.dumps([entry["question"], entry["answer"]]).encode()).hexdigest()[:16]


def _apart(score: Callable[[str], str], said: str, seconds: float, memory: int) -> str:
    """What a fork says that is limited in time and memory, and has neither network, processes nor files.

    What counts comes after a token, at the end of all that the fork writes and once.
    """
    token = secrets.token_hex(16)
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.dup2(writer, 3)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.closerange(4, 256)
            within = limited(score, seconds, memory)
            isolate("/", use_landlock=False)
            found = within(said)
        except RefusedError as refused:
            found = f"texts cannot be scored apart from the rest here: {refused}"
        except BaseException:  # SystemExit too: whatever a scorer raises on what a model writes
            found = "0"
        finally:
            os.write(3, (token + found).encode())
            os._exit(0)
    os.close(writer)
    written, deadline = b"", time.monotonic() + 2 * seconds + 1
    while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
        chunk = os.read(reader, 4096)
        written += chunk
        if not chunk or len(written) > 4096:
            break
    os.close(reader)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    before, _, found = written.decode(errors="replace").partition(token)
    return "0" if before or not found else found


if __name__ == "__main__":
    main()
