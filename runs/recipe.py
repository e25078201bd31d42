"""A recipe: everything that decides a run's weights. YAML, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from runs.evaluation import Evaluation
from runs.reporting import Tracker
from runs.tasks import Code, PreferencePairs, Task, Tools
from scramble.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grpo(_Section):
    """GRPO through TRL, without a KL term unless asked for (arXiv 2511.08567, C.1).

    Attributes:
        prompts: distinct prompts a step; `prompts * generations` sequences are sampled and trained on.
        micro_batch: sequences that go through the model at once; all of them by default.
        loss: TRL's `loss_type`: how token losses are averaged.
        beta: weight of the KL term to the start.
    """

    name: Literal["grpo"] = "grpo"
    prompts: PositiveInt = 4
    generations: Annotated[int, Field(ge=2)] = 8
    micro_batch: PositiveInt | None = None
    max_new_tokens: PositiveInt = 64
    temperature: PositiveFloat = 1.0
    loss: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "grpo"
    beta: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _divides(self) -> Grpo:
        if self.micro_batch and self.prompts * self.generations % self.micro_batch:
            raise ValueError(f"micro_batch does not divide {self.prompts} x {self.generations} sequences")
        return self


class AdamW(_Section):
    """AdamW on float32 weights and state, constant learning rate (C.1)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0


class Recipe(_Section):
    """One training run.

    Attributes:
        name: first part of the run folder's name.
        model: start checkpoint, a folder or hub id.
        seed: reaches dropout, the order of the data, and the rollouts.
        precision: of the arithmetic; weights and optimizer state are float32. `bf16` is autocast, and very
            slow on CPUs without bf16 instructions.
        save_steps: steps whose checkpoints are kept, in bf16; the last step always is.
        fp32_steps: steps whose float32 weights are kept as well (the aligned frame of a rotation needs them).
        evaluation: pass@k on held-out prompts. Neither this nor `report_to` changes the weights.
        report_to: where metrics go beside the run folder; nowhere by default.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    model: str
    task: Annotated[Task, Field(discriminator="name")]
    algorithm: Grpo = Grpo()
    optimizer: AdamW = AdamW()
    steps: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    save_steps: tuple[PositiveInt, ...] = ()
    fp32_steps: tuple[PositiveInt, ...] = ()
    evaluation: Evaluation | None = None
    report_to: tuple[Tracker, ...] = ()

    @model_validator(mode="after")
    def _steps_exist(self) -> Recipe:
        if late := [step for step in (*self.save_steps, *self.fp32_steps) if step > self.steps]:
            raise ValueError(f"step {late[0]} is to be saved, but the run has {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> Recipe:
        task, samples = self.task, getattr(self.algorithm, "samples", True)
        if isinstance(task, PreferencePairs) and samples:
            raise ValueError(
                f"task 'preference' has no answers to check; algorithm '{self.algorithm.name}' needs them"
            )
        if isinstance(task, PreferencePairs) and self.evaluation:
            raise ValueError("evaluation: task 'preference' has no answers to check")
        if isinstance(task, Code | Tools) and not samples:
            raise ValueError(
                f"task '{task.name}' has no texts to imitate; algorithm '{self.algorithm.name}' needs them"
            )
        if isinstance(task, Tools) and self.evaluation:
            raise ValueError("evaluation: task 'tools' takes several turns, which evaluation does not")
        return self

    def identity(self, start_hash: str) -> str:
        """Digest of what decides the weights: the recipe, with what is in start and data, not their paths."""
        left_out = {"name", "model", "task", "evaluation", "report_to"}
        decided = self.model_dump(mode="json", exclude=left_out)
        decided |= {"task": self.task.decides(), "start": start_hash}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader keeps the last of two equal keys; here they are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key '{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        RecipeError: missing, or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(), _UniqueKeys)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: not a mapping of keys to values")
    return content


def parse(kind: type[Model], content: dict[str, Any], where: str) -> Model:
    """Validate; the message names the place and the key.

    Raises:
        RecipeError: a wrong value or an unknown key.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        key = ".".join(map(str, first["loc"]))
        raise RecipeError(
            ": ".join(filter(None, (where, key, reason.removeprefix("Value error, "))))
        ) from None


def read_recipe(path: Path, **overrides: object) -> Recipe:
    """Read a recipe; `overrides` that are not None replace keys at the top."""
    content = read_yaml(path) | {key: value for key, value in overrides.items() if value is not None}
    return parse(Recipe, content, str(path))
