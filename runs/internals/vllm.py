"""What vLLM does not promise to keep, and what it is needed for.

- `distributed.parallel_state.cleanup_dist_env_and_memory`: a process trains one run after the other.
- `platforms.current_platform`: weights are replaced without oneDNN, which only a CPU has.
- `_custom_ops._supports_onednn`: whether layers pack their weights for it.
- `llm_engine.engine_core.shutdown` of an engine: it ends now, and not whenever it is collected.
- the CPU's worker puts a blank in the place of `torch.set_num_threads`, which has to be undone.

Importing this does not import vLLM: it reads its settings from the environment when that happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def process() -> Iterator[None]:
    """Around the making of engines and their use: weights can be replaced; the process is left as it was."""
    set_num_threads = torch.set_num_threads
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform

    try:
        with _updatable() if current_platform.is_cpu() else contextlib.nullcontext():
            yield
    finally:
        cleanup_dist_env_and_memory()
        torch.set_num_threads = set_num_threads  # the CPU's worker puts a blank there


def shut_down(engine: Any) -> None:
    """End an engine."""
    engine.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def _updatable() -> Iterator[None]:
    """Make engines on the CPU whose weights can be replaced: oneDNN keeps packed copies of the first ones."""
    import vllm._custom_ops as ops

    before = ops._supports_onednn
    ops._supports_onednn = False
    try:
        yield
    finally:
        ops._supports_onednn = before
