"""Recipes: identity, and one-line refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scramble.errors import RecipeError
from scramble.runs.recipe.recipe import Recipe, read_recipe


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
