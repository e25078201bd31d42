"""TRL's GRPOTrainer with what it lacks: dynamic sampling, and advantages of other kinds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from trl import GRPOTrainer

from scramble.runs.internals.trl import measure
from scramble.runs.trainers.rollouts import Rollouts

Advantages = Callable[[Float[Tensor, "prompt generation"]], Float[Tensor, "prompt generation"]]
Group = list[dict[str, Any]]  # a prompt's row, once for each generation
Completion = tuple[list[int], list[float] | None]  # token ids, and their log-probabilities if vLLM sampled


class GroupTrainer(GRPOTrainer):
    """GRPO by TRL, for one process.

    Args:
        rollouts: scores completions.
        resamples: rounds of dynamic sampling (arXiv 2503.14476, 3.2), 0 for none. Prompts that take the
            place of others are drawn without repetition by a generator that is keyed by seed and step, so
            that a resumed run draws the same.
        advantages: from weighted rewards; TRL's own (`scale_rewards`) if None.
    """

    def __init__(
        self,
        *args: Any,
        rollouts: Rollouts,
        resamples: int = 0,
        advantages: Advantages | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rollouts, self.resamples, self.advantages = rollouts, resamples, advantages
        self._sampled: list[Completion] | None = None
        self._rewards: Tensor | None = None
        self._rows = {_key(row): row for row in self.train_dataset} if resamples else {}

    def _generate_and_score_completions(self, inputs: Group) -> dict[str, Any]:
        if self.resamples:
            inputs, self._sampled = self._with_spread(inputs)
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self._sampled = None
        if self.advantages is not None and self._rewards is not None:
            grouped = self._rewards.view(-1, self.num_generations)
            batch["advantages"] = self.advantages(grouped).flatten().to(batch["advantages"])
        return batch

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Float[Tensor, "sequence function"]:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).sum(dim=1)
        return rewards

    def _generate_single_turn(
        self, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        if self._sampled is not None:
            ids, logprobs = zip(*self._sampled, strict=True)
            return list(ids), None if logprobs[0] is None else list(logprobs)
        return super()._generate_single_turn(*args, **kwargs)

    def _with_spread(self, inputs: Group) -> tuple[Group, list[Completion]]:
        """Sample, and sample other prompts in place of groups whose scores are all the same."""
        size = self.num_generations
        groups = [inputs[at : at + size] for at in range(0, len(inputs), size)]
        sampled = self._sample(groups)
        flat = [at for at, group in enumerate(groups) if not self._spread(group, sampled[at])]
        rows, resampled = self._unseen(groups), 0
        for _ in range(self.resamples):
            if not flat or not rows:
                break
            places, flat = flat[: len(rows)], flat[len(rows) :]
            fresh: list[Group] = [[rows.pop()] * size for _ in places]
            for at, group, completions in zip(places, fresh, self._sample(fresh), strict=True):
                groups[at], sampled[at] = group, completions
                if not self._spread(group, completions):
                    flat.append(at)
            resampled += len(places)
        measure(self, "resampled_groups", resampled)
        measure(self, "groups_without_spread", len(flat))
        return [row for group in groups for row in group], [one for group in sampled for one in group]

    def _unseen(self, groups: list[Group]) -> list[dict[str, Any]]:
        """Rows whose prompts are not in this batch, in the order in which they will be taken (last first)."""
        seen = {_key(group[0]) for group in groups}
        rows = [row for prompt, row in self._rows.items() if prompt not in seen]
        random.Random(f"{self.args.seed}/{self.state.global_step}").shuffle(rows)
        return rows

    def _sample(self, groups: list[Group]) -> list[list[Completion]]:
        """Completions by group and generation."""
        prompts = [row["prompt"] for group in groups for row in group]
        ids, images, fields = self._tokenize_prompts(prompts)
        tokens, logprobs = super()._generate_single_turn(ids, images, fields, self.num_generations)
        found = list(zip(tokens, logprobs or [None] * len(tokens), strict=True))
        return [found[at : at + self.num_generations] for at in range(0, len(found), self.num_generations)]

    def _spread(self, group: Group, completions: list[Completion]) -> bool:
        tokens = [ids for ids, _ in completions]
        texts = self.processing_class.batch_decode(tokens, skip_special_tokens=True)
        return len(set(self.rollouts.scores(texts, [row["answer"] for row in group]))) > 1


def _key(row: dict[str, Any]) -> str:
    """What tells a row's prompt, text or messages, from others."""
    return json.dumps(row["prompt"])
