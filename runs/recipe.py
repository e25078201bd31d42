"""A recipe: everything that decides a run's weights. YAML, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from runs.algorithms import Algorithm, Grpo
from runs.backends import Backend, Transformers
from runs.optimizers import AdamW, Optimizer
from runs.presets import with_preset
from runs.section import Section
from runs.tasks import Task
from scramble.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


class Match(Section):
    """Runs are compared at an equal length of the update, in place of an equal number of steps.

    Attributes:
        update_norm: training stops at the first step whose `||W - W0||_F` over all trained weights (float32
            weights, summed in float64) reaches this; `steps` is the limit.
    """

    update_norm: PositiveFloat


class Recipe(Section):
    """One training run.

    `preset: paper` stands for the algorithm and optimizer of `runs/presets.py`; keys beside it override.

    Attributes:
        name: first part of the run folder's name.
        model: start checkpoint, a folder or hub id.
        backend: what samples completions, for algorithms that do.
        steps: updates of the weights.
        match: stop earlier, when the update is long enough.
        seed: reaches dropout, the order of the data, and the rollouts.
        precision: of the arithmetic; weights and optimizer state are float32. `bf16` is autocast, and very
            slow on CPUs without bf16 instructions.
        save_steps: steps whose checkpoints are kept, in bf16; the last step always is.
        fp32_steps: steps whose float32 weights are kept as well (the aligned frame of a rotation needs them).
            A run that `match` stops keeps those of the step where it stops if `steps` is among these.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    model: str
    task: Annotated[Task, Field(discriminator="name")]
    algorithm: Annotated[Algorithm, Field(discriminator="name")] = Grpo()
    optimizer: Annotated[Optimizer, Field(discriminator="name")] = AdamW()
    backend: Annotated[Backend, Field(discriminator="name")] = Transformers()
    steps: PositiveInt
    match: Match | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    save_steps: tuple[PositiveInt, ...] = ()
    fp32_steps: tuple[PositiveInt, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = with_preset(content)
        for section, name in (("algorithm", "grpo"), ("optimizer", "adamw")):
            if isinstance(content.get(section), dict):
                content[section] = {"name": name} | content[section]
        return content

    @model_validator(mode="after")
    def _steps_exist(self) -> Recipe:
        if late := [step for step in (*self.save_steps, *self.fp32_steps) if step > self.steps]:
            raise ValueError(f"step {late[0]} is to be saved, but the run has {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _backend_samples(self) -> Recipe:
        if self.backend.name != "transformers" and not self.algorithm.samples:
            raise ValueError(
                f"backend '{self.backend.name}' samples completions, which algorithm "
                f"'{self.algorithm.name}' does not train on: leave the backend out"
            )
        return self

    def identity(self, start_hash: str) -> str:
        """Digest of what decides the weights: the recipe, and the start's bytes in place of its path."""
        decided = self.model_dump(mode="json", exclude={"name", "model"}) | {"start": start_hash}
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
        key = ".".join(
            str(part) for place, part in enumerate(first["loc"]) if not _is_tag(first["loc"], place)
        )
        raise RecipeError(
            ": ".join(filter(None, (where, key, reason.removeprefix("Value error, "))))
        ) from None


def _is_tag(key: tuple[int | str, ...], place: int) -> bool:
    """Whether this part of a key only says which algorithm, optimizer or task was meant."""
    return (
        place > 0 and key[place - 1] in ("algorithm", "backend", "optimizer", "task") and len(key) > place + 1
    )


def read_recipe(path: Path, **overrides: object) -> Recipe:
    """Read a recipe; `overrides` that are not None replace keys at the top."""
    content = read_yaml(path) | {key: value for key, value in overrides.items() if value is not None}
    return parse(Recipe, content, str(path))
