"""Every leaf of the recipe's schema is in the fingerprint, or stands in the list of those that are not."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from scramble.runs.recipe.recipe import NOT_DECIDING, Recipe
from scramble.runs.section import Section
from scramble.runs.tasks.data.task import BaseTask

REASONS = {
    "name": "a run of another name is the same run",
    "model": "the start's bytes decide, by the hash that `identity` is given",
    "report_to": "trackers only read",
    "resume_every": "an interrupted run ends with the same bits",
    "evaluation": "it draws from generators of its own, and trains nothing",
}
TASK_REASONS = {"held_out_data": "prompts that are evaluated on and never trained on"}
# What a field without a default is given, by its name.
NEEDED: dict[str, Any] = {"data": "rows", "dataset": "chain_sum", "every": 2, "update_norm": 0.5, "path": "m"}
Leaf = tuple[str, dict[str, Any], str | None, str]


def kinds(annotation: Any) -> list[type[Section]]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]  # type: ignore[list-item]
    parts = get_args(annotation)
    parts = parts[:1] if get_origin(annotation) is Annotated else parts
    return [kind for part in parts for kind in kinds(part)]


def options(annotation: Any) -> list[Any]:
    """The values of a field that is a choice."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType, Annotated) else ()
    return [value for part in parts for value in options(part)]


def filled(kind: type[Section]) -> dict[str, Any]:
    """The least that a section can be: the first choice of what tells its kinds apart, and what it needs."""
    content = {}
    for name, field in kind.model_fields.items():
        if choices := options(field.annotation) if name in ("name", "kind") else []:
            content[name] = choices[0]
        elif field.is_required():
            content[name] = NEEDED[name]
    return content


def around(section: str, kind: type[Section]) -> dict[str, Any]:
    """A recipe with this section, and what it asks of others."""
    content: dict[str, Any] = {"model": "m", "task": {"name": "few-shot-sums"}, "steps": 4}
    content |= {section: filled(kind)}
    if section == "collapse":
        content["kl"] = {"every": 2}
    if content["task"].get("name") == "preference":
        content["algorithm"] = {"name": "dpo"}
    return content


def leaves() -> Iterator[Leaf]:
    """Every leaf: its name for people, a recipe that has it, its section (None at the top), and its key."""
    top: dict[str, Any] = {"model": "m", "task": {"name": "few-shot-sums"}, "steps": 4}
    for name, field in Recipe.model_fields.items():
        if not kinds(field.annotation):
            yield name, top, None, name
        for kind in kinds(field.annotation):
            for key, inner in kind.model_fields.items():
                if len(options(inner.annotation)) == 1 and key in ("name", "kind"):
                    continue  # which kind it is: the test of the kinds
                yield f"{name}.{kind.__name__}.{key}", around(name, kind), name, key


def candidates(value: Any, annotation: Any) -> Iterator[Any]:
    """Values beside this one, some of which are valid."""
    yield from options(annotation)
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, value * 2, value - 1)
        case float():
            yield from (value / 2, value + 0.25, value + 1, value * 2)
        case str() | Path():
            yield f"{value}x"
        case dict():
            yield {"a": 1}
        case tuple() if value:
            yield from (value[:1], tuple(one / 2 for one in value if isinstance(one, float)))
        case _:
            yield from ((1,), (options(annotation) or [None])[:1], 1, 0.5, "x", ["x"], ["wandb"])


def others(leaf: Leaf) -> tuple[Recipe, Recipe]:
    """The recipe, and the same with another valid value at this leaf alone."""
    name, content, section, key = leaf
    recipe = Recipe.model_validate(content)
    holder = getattr(recipe, section) if section else recipe
    value, annotation = getattr(holder, key), type(holder).model_fields[key].annotation
    for candidate in candidates(value, annotation):
        change = {section: content[section] | {key: candidate}} if section else {key: candidate}
        try:
            changed = Recipe.model_validate(content | change)
        except (ValidationError, TypeError):
            continue
        if getattr(getattr(changed, section) if section else changed, key) != value:
            return recipe, changed
    raise AssertionError(f"{name}: no other valid value was found; add one to `candidates`")


LEAVES = {leaf[0]: leaf for leaf in leaves()}


def decides(leaf: Leaf) -> bool:
    """Whether the code declares nothing else."""
    _, _, section, key = leaf
    if section == "task":
        return key not in BaseTask.not_deciding
    return (section or key) not in NOT_DECIDING


@pytest.fixture(autouse=True)
def mask_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of masks, told apart by what is in them."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "mx"):
        Path(name).write_text(name)


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_another_value_is_another_fingerprint_where_it_decides(leaf: Leaf) -> None:
    recipe, changed = others(leaf)
    assert (recipe.identity("h") != changed.identity("h")) == decides(leaf)


def test_what_does_not_decide_is_declared_and_has_a_reason() -> None:
    assert set(REASONS) == NOT_DECIDING
    assert set(TASK_REASONS) == BaseTask.not_deciding
    tops = {section or key for _, _, section, key in LEAVES.values()}
    assert set(REASONS) <= tops
    assert all(
        kind.not_deciding == BaseTask.not_deciding for kind in kinds(Recipe.model_fields["task"].annotation)
    )


def test_the_walk_reaches_every_section_and_field() -> None:
    sections = {name: kinds(field.annotation) for name, field in Recipe.model_fields.items()}
    expected = {name for name, found in sections.items() if not found}
    for name, found in sections.items():
        expected |= {f"{name}.{kind.__name__}.{key}" for kind in found for key in kind.model_fields}
    missing = expected - set(LEAVES)
    assert {one.rpartition(".")[2] for one in missing} <= {"name", "kind"}
    assert {name for name, found in sections.items() if len(found) > 1} == {
        *("task", "algorithm", "optimizer", "backend", "mask")
    }


@pytest.mark.parametrize("section", ["task", "algorithm", "optimizer", "backend", "mask"])
def test_another_kind_is_another_fingerprint(section: str) -> None:
    kinds_ = kinds(Recipe.model_fields[section].annotation)
    found = [Recipe.model_validate(around(section, kind)).identity("h") for kind in kinds_]
    assert len(set(found)) == len(kinds_)


@pytest.mark.parametrize("section", ["match", "mask", "adapter", "kl", "collapse"])
def test_a_section_that_is_left_out_is_another_fingerprint(section: str) -> None:
    content = around(section, kinds(Recipe.model_fields[section].annotation)[0])
    without = {key: value for key, value in content.items() if key != section}
    assert Recipe.model_validate(content).identity("h") != Recipe.model_validate(without).identity("h")


def test_the_start_decides() -> None:
    recipe = Recipe.model_validate({"model": "m", "task": {"name": "few-shot-sums"}, "steps": 4})
    assert recipe.identity("h") != recipe.identity("other")


def test_of_a_file_its_content_decides_and_not_its_name() -> None:
    """Masks, and the data of a task."""
    for section, kind, key in (("mask", "file", "path"), ("task", "jsonl", "data")):
        tag = "kind" if section == "mask" else "name"
        top = {"model": "m", "task": {"name": "few-shot-sums"}, "steps": 4}
        found = {}
        for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
            Path(name).write_text(text)
            recipe = Recipe.model_validate(top | {section: {tag: kind, key: name}})
            found[name] = recipe.identity("h")
        assert found["a"] == found["b"] != found["c"]
