"""An experiment: a base, arms, replicates and one recipe. YAML, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator, model_validator

from scramble.architecture import Architecture
from scramble.checkpoints import Checkpoint, locate, open_checkpoint
from scramble.errors import RecipeError, SelectionError
from scramble.measures.pairs.masks import bf16_words
from scramble.measures.updates.expected import Expected, change_probabilities, expected_overlap
from scramble.operations.apply import apply, choose
from scramble.runfolder import Status
from scramble.runs.engine.run import start_hash
from scramble.runs.recipe.recipe import Recipe, parse, read_yaml
from scramble.runs.records.folder import WritableRun, run_folder
from scramble.symmetries import Symmetry
from scramble.transforms.draw import draw
from scramble.transforms.record import find_record, read_record
from scramble.transforms.rounding import rounded

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

UNTREATED, OUTSIDE = "untreated", "outside the layers"
"""Treatments of weights in the layers that no symmetry touched in an arm, and of those outside."""


class Arm(BaseModel):
    """What is done to the base before training.

    Attributes:
        scrambles: `NAME:layers=20,25`, as on the command line; none for the base arm.
        scramble_seed: names the draw.
        seeds: in place of the experiment's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scrambles: tuple[str, ...] = ()
    scramble_seed: int = 0
    seeds: tuple[int, ...] | None = None


class Experiment(BaseModel):
    """Arms x seeds of one recipe.

    Attributes:
        base: the checkpoint that every arm starts from, a folder or hub id.
        arms: name to arm; a plain list is an arm's scrambles. One arm must be the base itself.
        seeds: replicates; contrasts pair runs with different seeds.
        recipe: a recipe without `model`, `seed` and `name`.
        placebos: how often a scramble is undone by a wrong element of its group, beside the true one.
        notes: sentences that the report repeats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    base: str
    arms: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Arm]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    recipe: dict[str, Any]
    placebos: NonNegativeInt = 19
    notes: tuple[str, ...] = ()

    @field_validator("arms", mode="before")
    @classmethod
    def _lists_are_scrambles(cls, arms: Any) -> Any:
        if not isinstance(arms, dict):
            return arms
        return {name: {"scrambles": arm} if isinstance(arm, list) else arm for name, arm in arms.items()}

    @model_validator(mode="after")
    def _one_base_arm(self) -> Experiment:
        if sum(not arm.scrambles for arm in self.arms.values()) != 1:
            raise ValueError("arms: exactly one arm must have no scrambles, to compare with")
        for name, arm in self.arms.items():
            seeds = arm.seeds or self.seeds
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"arms.{name}: a seed is listed twice")
        return self

    @property
    def base_arm(self) -> str:
        return next(name for name, arm in self.arms.items() if not arm.scrambles)

    @property
    def scrambled_arms(self) -> list[str]:
        return [name for name, arm in self.arms.items() if arm.scrambles]

    def recipe_for(self, arm: str, seed: int, model: str) -> Recipe:
        """The full recipe of one run.

        Raises:
            RecipeError: the recipe has a wrong value, or sets a key that the experiment sets.
        """
        if own := {"model", "seed", "name"} & self.recipe.keys():
            raise RecipeError(f"{self.name}: recipe.{sorted(own)[0]}: the experiment sets this")
        content = self.recipe | {"model": model, "seed": seed, "name": f"{self.name}-{arm}-seed{seed}"}
        return parse(Recipe, content, f"{self.name}: recipe")


def read_experiment(path: Path, **overrides: object) -> Experiment:
    """Read an experiment; `overrides` that are not None replace keys at the top.

    Raises:
        RecipeError: a wrong value or an unknown key, here or in the recipe.
    """
    content = read_yaml(path) | {key: value for key, value in overrides.items() if value is not None}
    if "arms" not in content and "model" in content:
        raise RecipeError(f"{path}: this is a recipe: scramble run {path}")
    experiment = parse(Experiment, content, str(path))
    experiment.recipe_for(experiment.base_arm, experiment.seeds[0], experiment.base)
    return experiment


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment. `folder` is None while its start has not been written."""

    arm: str
    seed: int
    recipe: Recipe
    start: Path
    folder: WritableRun | None

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def status(self) -> Status:
        return self.folder.status if self.folder else "missing"

    @property
    def done(self) -> WritableRun:
        """The folder of a finished run.

        Raises:
            SelectionError: it is not finished.
        """
        if self.folder is None or self.status != "finished":
            raise SelectionError(f"{self.name}: not finished")
        return self.folder


def start_folder(experiment: Experiment, arm: str, out: Path, base_hash: str) -> Path:
    """Where an arm's start is: the base itself, or `out/starts/<arm>-<hash of base and scrambles>`."""
    setting = experiment.arms[arm]
    if not setting.scrambles:
        return locate(experiment.base)
    decided = json.dumps([base_hash, setting.scrambles, setting.scramble_seed])
    return out / "starts" / f"{arm}-{hashlib.sha256(decided.encode()).hexdigest()[:12]}"


def plan(experiment: Experiment, out: Path) -> list[PlannedRun]:
    """Every run, arm by arm; nothing is written.

    Raises:
        ScrambleError: the base cannot be read, or an arm asks for a scramble that it does not have.
    """
    base = locate(experiment.base)
    checkpoint, base_hash = open_checkpoint(base), start_hash(base)
    runs = []
    for name, arm in experiment.arms.items():
        _can_be_aligned(experiment, name, choose(checkpoint, arm.scrambles, None), checkpoint.architecture)
        start = start_folder(experiment, name, out, base_hash)
        digest = base_hash if start == base else start_hash(start) if start.exists() else None
        for seed in arm.seeds or experiment.seeds:
            recipe = experiment.recipe_for(name, seed, str(start))
            folder = run_folder(out, recipe, digest) if digest else None
            runs.append(PlannedRun(name, seed, recipe, start, folder))
    return runs


def _can_be_aligned(
    experiment: Experiment,
    arm: str,
    chosen: Sequence[tuple[Symmetry, tuple[int | None, ...]]],
    architecture: Architecture,
) -> None:
    """A rotation is undone from float32 ends only; without them every run would train in vain."""
    recipe = experiment.recipe_for(arm, experiment.seeds[0], experiment.base)
    if recipe.steps in recipe.fp32_steps:
        return
    for symmetry, layers in chosen:
        drawn = symmetry.draw(architecture, 0, layers[0])
        if not all(element.exact for element in drawn):
            raise RecipeError(
                f"{experiment.name}: arm '{arm}' has a {symmetry.name}, which only float32 ends can undo: "
                f"put step {recipe.steps} into recipe.fp32_steps"
            )


def prepare(experiment: Experiment, out: Path, report: Any = lambda message: None) -> list[PlannedRun]:
    """Write the scrambled starts that are missing, each verified, and plan."""
    planned = plan(experiment, out)
    starts = {run.arm: run.start for run in planned}
    missing = [name for name, start in starts.items() if not start.exists()]
    if not missing:
        return planned
    (out / "starts").mkdir(parents=True, exist_ok=True)
    for name in missing:
        arm = experiment.arms[name]
        report(f"scrambling the start of arm '{name}'")
        apply(
            locate(experiment.base),
            starts[name],
            symmetries=arm.scrambles,
            seed=arm.scramble_seed,
            full_hash=True,
            progress=report,
        )
    return plan(experiment, out)


def treatment(start: Path, base: Path) -> dict[str, str]:
    """Tensor name to the symmetries that an arm's start adds to those of the base, joined by ` + `."""
    manifest, before = read_record(start).manifest, find_record(base)
    inherited = len(before.manifest.steps) if before else 0
    architecture = open_checkpoint(start).architecture
    touched = {name for done in manifest.scrambles for name in done.tensors}
    found: dict[str, list[str]] = {}
    for step in manifest.steps[inherited:]:
        for record in step.elements:
            for name, slot in architecture.slots(step.layer).items():
                if name not in touched or not slot.carries(record.axis):
                    continue
                names = found.setdefault(name, [])
                if step.symmetry not in names:
                    names.append(step.symmetry)
    return {name: " + ".join(names) for name, names in found.items()}


def noise_of(recipe: Recipe) -> float:
    """Standard deviation of a weight's update, if each step is its learning rate with a coin's sign.

    transformers' warmup begins at zero: of w steps of it, step t (from 0) has t / w of the learning rate.
    """
    warm = recipe.optimizer.warmup_steps
    shares = [min(step / warm, 1.0) if warm else 1.0 for step in range(recipe.steps)]
    return float(recipe.optimizer.learning_rate * sum(share**2 for share in shares) ** 0.5)


def expected(experiment: Experiment) -> list[dict[str, Any]]:
    """The overlap of two runs that each contrast is expected to have, from the starts and the recipe alone.

    Every update is taken for noise of AdamW's size (`scramble.measures.updates.expected`). Scrambled starts
    are made in memory, tensor by tensor; nothing is written.

    Returns:
        A row for each treatment of each scrambled arm, and two runs of the base beside it: as stored.

    Raises:
        RecipeError: an optimizer, mask or adapter for which the rule is not made.
        ScrambleError: the base cannot be read, or an arm asks for a scramble that it does not have.
    """
    recipe = experiment.recipe_for(experiment.base_arm, experiment.seeds[0], experiment.base)
    if recipe.optimizer.name != "adamw" or recipe.mask or recipe.adapter or recipe.optimizer.weight_decay:
        raise RecipeError(
            f"{experiment.name}: the expected overlap is that of AdamW on all weights, without weight decay"
        )
    probabilities = change_probabilities(noise_of(recipe))
    base, checkpoint = experiment.base_arm, open_checkpoint(locate(experiment.base))
    return [
        {
            "arm": name,
            "contrast": f"{base} x {other}",
            "treatment": label,
            "n": found.n,
            "density_a": found.a / found.n,
            "density_b": found.b / found.n,
            "expected_chance": found.chance_jaccard,
            "expected_jaccard": found.jaccard,
        }
        for name in experiment.scrambled_arms
        for label, both in _expected_of(checkpoint, experiment.arms[name], probabilities).items()
        for other, found in zip((base, name), both, strict=True)
    ]


def _expected_of(
    checkpoint: Checkpoint, arm: Arm, probabilities: Float64[np.ndarray, "32768"]
) -> dict[str, tuple[Expected, Expected]]:
    """By treatment: counts of two runs of the base, and of one of the base and one of the arm."""
    chosen, slots = choose(checkpoint, arm.scrambles, None), checkpoint.architecture.slots()
    actions = draw(checkpoint, chosen, arm.scramble_seed, "0").transform.actions
    names: dict[tuple[int | None, str], list[str]] = {}
    for one in chosen:
        for tensor in draw(checkpoint, [one], arm.scramble_seed, "0").transform.actions:
            held = names.setdefault((slots[tensor].number, slots[tensor].module), [])
            if one[0].name not in held:
                held.append(one[0].name)
    sums: dict[str, tuple[Expected, Expected]] = {}
    for tensor in checkpoint.parameters:
        slot, storage, words = slots[tensor], checkpoint.storage(tensor), checkpoint.words(tensor)
        image = words
        if action := actions.get(tensor):
            source = checkpoint.words(action.source)
            image, _ = rounded(tensor, source, storage, action.layout, slot.sizes, action.elements)
        own, other = bf16_words(words, storage), bf16_words(image, storage)
        held = names.get((slot.number, slot.module), [])
        label = " + ".join(held) or (OUTSIDE if slot.number is None else UNTREATED)
        home, crossed = sums.get(label, (Expected(), Expected()))
        sums[label] = (
            home + expected_overlap(own, own, probabilities),
            crossed + expected_overlap(own, other, probabilities),
        )
    return sums
