"""What vLLM does not promise to keep is there, and the process is afterwards what it was.

Marked `vllm`: that trained weights reach an engine is shown in `tests/runs/engine/test_vllm_backend.py`.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

LOOK = """
import torch
from scramble.runs.internals.vllm import process

before = torch.set_num_threads
import vllm._custom_ops as ops
known = ops._supports_onednn
with process():
    from vllm.platforms import current_platform
    assert isinstance(current_platform.is_cpu(), bool)
    assert ops._supports_onednn == (False if current_platform.is_cpu() else known)
    torch.set_num_threads = lambda count: None
assert ops._supports_onednn == known
assert torch.set_num_threads is before
"""


ASK = """
import inspect
from vllm import LLM, SamplingParams

parameters = inspect.signature(LLM.generate).parameters
assert list(parameters)[:3] == ["self", "prompts", "sampling_params"], parameters
assert "use_tqdm" in parameters
asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
copy = asked.clone()
copy.seed = 7
assert (asked.seed, copy.seed, copy.prompt_logprobs) == (None, 7, 0)
"""


@pytest.mark.vllm
@pytest.mark.parametrize(
    "script", [LOOK, ASK], ids=["engines leave the process as it was", "how it is asked"]
)
def test_what_is_needed_of_vllm_is_there(script: str) -> None:
    """In a process of its own: importing vLLM warns, and changes the one that does it."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_trl_copies_what_it_is_told_to_and_samples_by_the_engine() -> None:
    """By the source: without vLLM no trainer of that kind can be made."""
    from trl.generation.vllm_generation import VLLMGeneration

    names = vars(VLLMGeneration)
    assert [*inspect.signature(names["_iter_named_params"]).parameters] == ["self"]
    assert [*inspect.signature(names["sync_weights"]).parameters] == ["self"]
    copied = inspect.getsource(names["sync_weights"])
    assert "for name, param in self._iter_named_params():" in copied
    assert "self.llm" in copied
    assert "self.llm.generate(" in inspect.getsource(VLLMGeneration)


def test_importing_the_module_imports_no_vllm() -> None:
    code = "import sys, scramble.runs.internals.vllm; assert 'vllm' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
