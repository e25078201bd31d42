"""The KL divergence of the policy from the start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import GenerationConfig, PreTrainedModel

from scramble.runs.engine.update_norm import UpdateNorm
from scramble.runs.internals.accelerate import plain_forward
from scramble.runs.recipe.kl import Kl
from scramble.runs.trainers.callbacks import Callback


class KlToStart(Callback):
    """`KL(start || policy)`, in nats a token, on completions that the start sampled once at temperature 1.

    At each token of these, the divergence between the two distributions over the whole vocabulary, in float32
    whatever training computes in; the mean over all tokens, the end of text among them.

    Made while the model still is the start.

    Args:
        prompts: tokens of each.
        sampling: of the completions.
    """

    after = (UpdateNorm,)  # which may say that this step is the last

    def __init__(
        self, model: PreTrainedModel, prompts: list[list[int]], sampling: GenerationConfig, settings: Kl
    ) -> None:
        self.model, self.every, self.seen = model, settings.every, dict[str, float]()
        self.texts: list[tuple[Tensor, int]] = []
        with self._undisturbed():
            torch.manual_seed(settings.seed)
            for prompt in prompts:
                ids = torch.tensor([prompt], device=model.device)
                text = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=sampling)
                self.texts.append((text, ids.shape[1]))
            self.start = [self._log_probabilities(*text) for text in self.texts]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = control.should_training_stop or state.global_step == args.max_steps
        if last or state.global_step % self.every == 0:
            self.seen = {"kl_to_start": self.measure()}

    def take(self) -> dict[str, float]:
        """What was measured since the last call; empty if nothing was."""
        seen, self.seen = self.seen, {}
        return seen

    def measure(self) -> float:
        total, tokens = 0.0, 0
        with self._undisturbed():
            for start, text in zip(self.start, self.texts, strict=True):
                now = self._log_probabilities(*text)
                total += float(kl_div(now.double(), start.double(), reduction="sum", log_target=True))
                tokens += len(start)
        return total / tokens

    def _log_probabilities(self, text: Tensor, prompt: int) -> Float[Tensor, "token vocabulary"]:
        logits = plain_forward(self.model, input_ids=text).logits[0, prompt - 1 : -1]
        return log_softmax(logits.float(), dim=-1)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Without dropout and gradients; generators and modes are afterwards what they were."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.random.fork_rng(), torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
