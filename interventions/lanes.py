"""Runs side by side: lanes that divide the cores, or one lane a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.child import python
from scramble.errors import RunError
from scramble.interventions.experiment import PlannedRun

Progress = Callable[[PlannedRun, int, dict[str, Any]], None]
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Lanes:
    """How many runs go side by side, and how many threads each has.

    OpenMP threads spin while they wait: lanes with more threads than cores between them are many times
    slower than lanes that divide the cores.
    """

    count: int
    threads: int
    gpus: tuple[str, ...] = ()


def lanes(runs: int, count: int | None = None) -> Lanes:
    """As many as there are GPUs, else cores, and no more than there are runs."""
    import torch

    numbers = [str(number) for number in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    gpus = tuple(visible[: len(numbers)])
    cores = len(os.sched_getaffinity(0))
    count = max(1, min(count or len(gpus) or cores, runs))
    return Lanes(count, max(1, cores // count), gpus)


def execute(
    runs: Sequence[PlannedRun], out: Path, lanes: Lanes, progress: Progress = lambda run, step, metrics: None
) -> dict[str, str]:
    """Train what is not finished; returns the names of runs that failed, with the reason.

    A run that fails does not stop the others. Lanes die with this process.
    """
    waiting = [run for run in runs if run.status != "finished"]
    running: dict[int, tuple[PlannedRun, subprocess.Popen[bytes]]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            for lane in range(lanes.count):
                if lane not in running and waiting:
                    run = waiting.pop(0)
                    running[lane] = (run, _start(run, out, lanes, lane))
            time.sleep(_POLL_SECONDS)
            for lane, (run, process) in list(running.items()):
                done = process.poll() is not None
                metrics = run.folder.metrics if run.folder and run.status != "damaged" else []
                progress(run, len(metrics), metrics[-1] if metrics else {})
                if done:
                    del running[lane]
                    if run.status != "finished":
                        failed[run.name] = _reason(run, process.returncode)
    finally:
        for _, process in running.values():
            process.kill()
    return failed


def _start(run: PlannedRun, out: Path, lanes: Lanes, lane: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(lanes.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if lanes.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = lanes.gpus[lane % len(lanes.gpus)]
    job: dict[str, Any] = {"recipe": run.recipe.model_dump(mode="json"), "out": str(out)}
    job |= {"threads": lanes.threads, "parent": os.getpid()}
    with _log(run).open("wb") as log:
        process = subprocess.Popen(
            python("-m", "scramble.runs.worker"),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )
    if process.stdin is None:
        raise RunError(f"{run.name}: its worker could not be started")
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


def _log(run: PlannedRun) -> Path:
    if run.folder is None:
        raise RunError(f"{run.name}: its start {run.start} is not there")
    run.folder.path.mkdir(parents=True, exist_ok=True)
    return run.folder.path / "log.txt"


def _reason(run: PlannedRun, code: int) -> str:
    """Why a run failed. Its folder says so too; of a process that was killed, it is said here."""
    if run.folder and run.status == "damaged":
        return f"{run.folder.path} is damaged (scramble runs list says how)"
    if run.folder and code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does where memory runs out: lower algorithm.micro_batch or --lanes"
        reason = f"killed by {name}{hint if name == 'SIGKILL' else ''} (see {_log(run)})"
        run.folder.write_record(status="failed", reason=reason)
        return reason
    if run.folder and run.status == "failed":
        record = run.folder.record
        return (record.reason if record else None) or "unknown"
    lines = _log(run).read_text(errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'} (see {_log(run)})"
