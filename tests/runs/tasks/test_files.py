"""Tasks from files: columns, splits, and one line for what cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.errors import RecipeError, RunError
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.tasks import Jsonl, PreferencePairs

ROWS = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def as_array(folder: Path) -> str:
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=2))
    return str(folder / "rows.json")


def as_parquet(folder: Path) -> str:
    pandas.DataFrame(ROWS).to_parquet(folder / "rows.parquet")
    return str(folder / "rows.parquet")


def as_saved(folder: Path) -> str:
    from datasets import Dataset

    Dataset.from_list(ROWS).with_format("numpy").save_to_disk(folder / "saved")
    return str(folder / "saved")


def as_folder(folder: Path) -> str:
    (folder / "data").mkdir()
    write(folder / "data" / "train.jsonl", ROWS)
    return str(folder / "data")


WAYS: dict[str, Callable[[Path], str]] = {
    "jsonl": lambda folder: write(folder / "rows.jsonl", ROWS),
    "a JSON array": as_array,
    "parquet": as_parquet,
    "saved by datasets": as_saved,
    "a folder for datasets": as_folder,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_kind_of_file_gives_the_same_examples(
    way: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = Jsonl(name="jsonl", data=way(tmp_path), size=7)
    assert [(one.prompt, one.answer) for one in task.checked_examples()] == [
        (row["prompt"], row["answer"]) for row in ROWS[:7]
    ]


def test_columns_and_the_template_are_the_recipes(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"question": "2+2", "result": 4}])
    task = Jsonl(name="jsonl", data=data, prompt="question", answer="result", template="Q: {prompt}\nA:")
    (example,) = task.checked_examples()
    assert (example.prompt, example.text) == ("Q: 2+2\nA:", "4")
    assert task.scores([" 4\n", "5", "44", "4.0"], [example.answer] * 4) == [1.0, 0.0, 0.0, 1.0]


@given(
    st.lists(st.integers(0, 15), min_size=3, max_size=40), st.integers(1, 10), st.integers(0, 9), st.data()
)
def test_what_is_held_out_is_never_trained_on(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[int],
    held_out: int,
    seed: int,
    data: st.DataObject,
) -> None:
    """With repeated prompts too; and together both are all prompts."""
    rows = [{"prompt": str(number), "answer": "x"} for number in numbers]
    path = write(tmp_path_factory.mktemp("data") / "rows.jsonl", rows)
    task = Jsonl(name="jsonl", data=path, seed=seed, held_out_rows=held_out)
    if held_out >= len(set(numbers)):
        with pytest.raises(RecipeError, match="leave none to train on"):
            task.examples()
        return
    trained = {example.prompt for example in task.examples()}
    kept = task.held_out(held_out)
    assert {example.prompt for example in kept} | trained == {str(number) for number in numbers}
    assert not {example.prompt for example in kept} & trained
    size = data.draw(st.integers(1, held_out))
    assert set(task.held_out(size)) <= set(kept)
    with pytest.raises(RecipeError, match=f"there are {held_out}"):
        task.held_out(held_out + 1)


def test_a_second_file_is_held_out_without_what_is_trained_on(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", ROWS[:10])
    other = write(tmp_path / "b.jsonl", ROWS[5:15])
    task = Jsonl(name="jsonl", data=data, held_out_data=other)
    assert len(task.examples()) == 10
    assert {one.prompt for one in task.held_out(5)} == {row["prompt"] for row in ROWS[10:15]}
    with pytest.raises(RecipeError, match="there are 5"):
        task.held_out(6)
    with pytest.raises(RecipeError, match=r"task\.held_out_rows or task\.held_out_data"):
        Jsonl(name="jsonl", data=data).held_out(1)


BAD: dict[str, tuple[str, str]] = {
    "no column": ('{"prompt": "a", "label": "b"}', "row 1 has no column 'answer'; it has label, prompt"),
    "a later row": (
        '{"prompt": "a", "answer": "b"}\n{"prompt": "a"}',
        "row 2 has no column 'answer'; it has prompt",
    ),
    "empty": ("\n\n", "no rows"),
    "an empty value": ('{"prompt": "", "answer": "b"}', "row 1: column 'prompt' is empty"),
    "a missing value": ('{"prompt": "a", "answer": null}', "row 1: column 'answer' is empty"),
    "not JSON": ('{"prompt": "a", "answer": "b"}\n\n{"prompt', "line 3 is not JSON"),
    "not an object": ("[1]", "line 1 is not an object"),
    "not UTF-8": ('{"prompt": "a", "answer": "b"}\n"\udcff"', "line 2 is not JSON"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        Jsonl(name="jsonl", data=str(path)).examples()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.parquet"):
        with pytest.raises(RecipeError, match="there is no such file"):
            Jsonl(name="jsonl", data=str(tmp_path / name)).examples()
    (tmp_path / "rows.parquet").write_text("no")
    with pytest.raises(RecipeError, match="not Parquet"):
        Jsonl(name="jsonl", data=str(tmp_path / "rows.parquet")).examples()
    with pytest.raises(RecipeError, match="task: nobody/nothing: ") as error:
        Jsonl(name="jsonl", data="nobody/nothing").examples()
    assert "\n" not in str(error.value)


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def test_preferences(tmp_path: Path) -> None:
    task = PreferencePairs(
        name="preference", data=write(tmp_path / "a.jsonl", [PAIR, PAIR | {"prompt": "d"}])
    )
    (first, second) = task.preferences()
    assert (first.prompt, first.chosen, first.rejected) == ("a", "b", "c")
    assert second.prompt == "d"
    assert [(one.prompt, one.answer) for one in task.checked_examples()] == [("a", "b"), ("d", "b")]
    with pytest.raises(RunError, match="nothing says whether"):
        task.scores(["b"], ["b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "c"}, "row 2: the chosen and the rejected answer are the same"),
        ({"chosen": [1]}, "row 2: column 'chosen' holds no text but a list"),
        ({"rejected": None}, "row 2: column 'rejected' is empty"),
    ],
)
def test_bad_pairs_are_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [PAIR, PAIR | change])
    with pytest.raises(RecipeError, match=message):
        PreferencePairs(name="preference", data=data).preferences()


def test_what_is_in_a_file_identifies_a_run_not_where_it_is(content: dict[str, Any], tmp_path: Path) -> None:
    def identity(path: str, **settings: Any) -> str:
        task = {"name": "tools", "data": path} | settings
        return Recipe.model_validate(content | {"task": task}).identity("start")

    (tmp_path / "folder").mkdir()
    one, same = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", ROWS)
    other, folder = write(tmp_path / "c.jsonl", ROWS[1:]), tmp_path / "folder"
    assert identity(one) == identity(same) == identity(one, held_out_data=other)
    write(folder / "train.jsonl", ROWS)
    before = identity(str(folder))
    write(folder / "train.jsonl", ROWS[1:])
    different = {identity(one), identity(other), before, identity(str(folder)), identity("org/name")}
    different |= {
        identity(one, documents=same),
        identity(one, documents=other),
        identity(one, held_out_rows=1),
    }
    assert len(different) == 8
