"""Recipes: identity, and one-line refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scramble.errors import RecipeError
from scramble.runs.recipe.recipe import Recipe, read_recipe
from tests.conftest import Command


def test_identity_is_what_decides_the_weights(content: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(content)
    same = Recipe.model_validate(content | {"name": "other", "model": "/elsewhere"})
    assert recipe.identity("h") == same.identity("h")
    changes: list[dict[str, Any]] = [
        {"seed": 2},
        {"steps": 3},
        {"precision": "bf16"},
        {"task": {"name": "few-shot-sums", "size": 31}},
        {"optimizer": {"learning_rate": 2e-3}},
        {"algorithm": {"prompts": 2, "generations": 4}},
    ]
    others = {Recipe.model_validate(content | change).identity("h") for change in changes}
    assert len(others | {recipe.identity("h"), recipe.identity("other start")}) == len(changes) + 2


def test_a_written_recipe_reads_back(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = Recipe.model_validate(content)
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert read_recipe(path) == recipe
    assert read_recipe(path, seed=9).seed == 9


def test_the_paper_preset_is_written_out_and_overridden(content: dict[str, Any]) -> None:
    plain = {key: value for key, value in content.items() if key not in ("algorithm", "optimizer")}
    paper = Recipe.model_validate(plain | {"preset": "paper"})
    shown = paper.model_dump(mode="json")
    algorithm = shown["algorithm"]
    assert "preset" not in shown
    assert (algorithm["name"], algorithm["beta"]) == ("dapo", 0)
    assert (algorithm["prompts"], algorithm["mini_batches"], paper.algorithm.updates) == (256, 4, 4)  # type: ignore[union-attr]
    assert (algorithm["right"], algorithm["wrong"]) == (1, -1)
    assert (algorithm["overlong_buffer"], algorithm["overlong_factor"]) == (1024, 1)
    assert 12 <= algorithm["generations"] <= 16
    assert (shown["optimizer"]["learning_rate"], shown["optimizer"]["betas"]) == (1e-6, [0.9, 0.999])
    assert Recipe.model_validate(shown).identity("h") == paper.identity("h")
    own = Recipe.model_validate(
        plain | {"preset": "paper", "algorithm": {"prompts": 8}, "optimizer": {"name": "sgd"}}
    )
    assert own.algorithm.model_dump() == paper.algorithm.model_dump() | {"prompts": 8}
    assert own.optimizer.name == "sgd"
    other = Recipe.model_validate(plain | {"preset": "paper", "algorithm": {"name": "grpo"}})
    assert other.algorithm == Recipe.model_validate(plain | {"algorithm": {"name": "grpo"}}).algorithm


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"step": 3}, "step: unknown key"),
    "unknown nested key": ({"optimizer": {"lr": 1}}, "optimizer.lr: unknown key"),
    "unknown task": ({"task": {"name": "chess"}}, "task"),
    "unknown task key": ({"task": {"name": "few-shot-sums", "shot": 1}}, "shot: unknown key"),
    "no steps": ({"steps": 0}, "steps"),
    "late checkpoint": ({"save_steps": [5]}, "step 5 is to be saved"),
    "one generation": ({"algorithm": {"generations": 1}}, "generations"),
    "micro batch": (
        {"algorithm": {"prompts": 2, "generations": 4, "micro_batch": 3}},
        "micro_batch does not divide",
    ),
    "pattern without a group": ({"task": {"name": "few-shot-sums", "answer_pattern": "x"}}, "a group"),
    "operands": ({"task": {"name": "few-shot-sums", "low": 9, "high": 2}}, "low 9 is above high 2"),
    "name with a path": ({"name": "../x"}, "name"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_recipe_is_one_line_and_nothing_is_written(
    change: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | change))
    found = command("run", path, "--out", tmp_path / "out")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert str(path) in found.err
    assert not (tmp_path / "out").exists()


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(path)
    path.write_text("a: [")
    with pytest.raises(RecipeError, match="not YAML"):
        read_recipe(path)
    path.write_text("- a")
    with pytest.raises(RecipeError, match="not a mapping"):
        read_recipe(path)
