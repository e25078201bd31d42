"""Code: programs from completions, tests from columns, and the isolation in the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scramble.errors import RecipeError, RunError
from scramble.runs.engine.run import run
from scramble.runs.recipe.recipe import Recipe
from scramble.runs.sandbox import sandbox
from scramble.runs.tasks import Code

TESTS = "assert add(1, 2) == 3"
RIGHT = "def add(a, b):\n    return a + b\n"


def code(folder: Path, *rows: dict[str, Any], **settings: Any) -> Code:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Code(name="code", data=str(folder / "rows.jsonl"), **settings)


def test_programs_are_found_in_completions(tmp_path: Path) -> None:
    task = code(tmp_path, {"prompt": "Add.", "tests": TESTS})
    (example,) = task.checked_examples()
    completions = [
        RIGHT,
        f"First:\n```python\nadd = None\n```\nThen:\n```python\n{RIGHT}```\nDone.",
        f"```\n{RIGHT}",
        f"Here it is:\n{RIGHT}",
        f"```python\n{RIGHT}```\n```python\nadd = None\n```",
        "",
    ]
    assert task.scores(completions, [example.answer] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_lists_of_tests_and_entry_points(tmp_path: Path) -> None:
    """The columns of MBPP and of HumanEval."""
    task = code(tmp_path, {"text": "Add.", "test_list": [TESTS, "assert add(0, 0) == 1"]}, prompt="text")
    task = task.model_copy(update={"answer": "test_list"})
    assert not task.correct(RIGHT, task.examples()[0].answer)
    prompt = "def add(a, b):\n"
    row = {
        "prompt": prompt,
        "test": f"def check(candidate):\n    {TESTS.replace('add', 'candidate')}",
        "name": "add",
    }
    task = code(tmp_path, row, answer="test", entry_point="name", continues_prompt=True)
    (example,) = task.checked_examples()
    assert example.prompt == prompt
    assert task.scores(["    return a + b\n", "    return a - b\n"], [example.answer] * 2) == [1.0, 0.0]
    assert task.correct(f"```python\n{RIGHT}```", example.answer)


def test_the_record_says_which_isolation_is_in_force(tmp_path: Path) -> None:
    row = {"prompt": "Add.", "tests": TESTS}
    assert code(tmp_path, row).facts()["isolation"]["network"] == "none (seccomp)"
    assert code(tmp_path, row, isolation="seccomp").facts()["isolation"]["writes"] == "none (seccomp)"
    assert code(tmp_path, row, isolation="none").facts() == {"isolation": "none: resource limits only"}


def test_bad_settings_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "Add.", "tests": TESTS}
    with pytest.raises(RecipeError, match="row 1: its tests are not Python"):
        code(tmp_path, row | {"tests": "assert ("}).examples()
    with pytest.raises(RecipeError, match="row 1 has no column 'name'; it has prompt, tests"):
        code(tmp_path, row, entry_point="name").examples()
    with pytest.raises(ValueError, match="exclude each other"):
        code(tmp_path, row, continues_prompt=True, template="Do {prompt}")
    with pytest.raises(RunError, match="1 MB a right program fails here"):
        code(tmp_path, row, memory_mb=1).checked_examples()
    refusing = sandbox._CHILD.replace(
        "import main", "import main; import os; os.uname = lambda: type('U', (), {'machine': 'aarch64'})"
    )
    monkeypatch.setattr(sandbox, "_CHILD", refusing)
    with pytest.raises(RunError, match="'isolation: none' in the task runs them without"):
        code(tmp_path, row).checked_examples()


@pytest.mark.train
def test_a_run_says_which_isolation_was_in_force(content: dict[str, Any], tmp_path: Path) -> None:
    """And a model that writes no programs gets no reward."""
    task = code(tmp_path, *[{"prompt": f"{number}+1=", "tests": TESTS} for number in range(4)])
    found = run(
        Recipe.model_validate(content | {"task": task.model_dump(), "steps": 1, "fp32_steps": []}),
        tmp_path / "out",
    )
    assert found.record.content()["task"] == task.facts()
    assert [row["reward"] for row in found.metrics] == [0.0]


FENCED = {
    "python3": f"```python3\n{RIGHT}```",
    "Python": f"```Python\n{RIGHT}```",
    "spaces": f"``` python \n{RIGHT}```",
    "attributes": f"```{{.python .numberLines}}\n{RIGHT}```",
    "indented": "1. Add:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```",
    "text before": f"```text\n1 and 2\n```\n```python\n{RIGHT}```",
    "shell after": f"```python\n{RIGHT}```\n```bash\npython add.py\n```\n```\n3\n```",
    "docstring": "```python\ndef add(a, b):\n    '''Add.\n\n    ```\n    add(1, 2)\n    ```\n    '''\n"
    "    return a + b\n```",
    "docstring without a block": "def add(a, b):\n    '''Add.\n\n    ```python\n    add(1, 2)\n"
    "    ```\n    '''\n"
    "    return a + b\n",
}


def test_right_programs_are_right_in_any_fence(tmp_path: Path) -> None:
    task = code(tmp_path, {"prompt": "Add.", "tests": TESTS})
    answer = task.examples()[0].answer
    scores = task.scores(list(FENCED.values()), [answer] * len(FENCED))
    assert dict(zip(FENCED, scores, strict=True)) == dict.fromkeys(FENCED, 1.0)


def test_what_the_harness_offers_is_a_setting(tmp_path: Path) -> None:
    row = {"prompt": "Add.", "tests": TESTS}
    offered = (
        "def add(a: List[int], b: Optional[int]) -> Deque:\n    return math.floor(a) + Counter('aa')['a']\n"
    )
    own = f"from __future__ import annotations\nfrom typing import List\n{offered}"
    answer = code(tmp_path, row).examples()[0].answer
    assert code(tmp_path, row).scores([offered, own], [answer] * 2) == [1.0, 1.0]
    nothing = code(tmp_path, row, preamble="")
    assert nothing.scores([offered, own, RIGHT], [answer] * 3) == [0.0, 0.0, 1.0]
    task = code(
        tmp_path, row | {"tests": f"{TESTS}\nassert three() == 3"}, preamble="def three():\n    return 3\n"
    )
    assert task.correct(RIGHT, task.examples()[0].answer)
    with pytest.raises(ValueError, match=r"preamble\n.*not Python"):
        code(tmp_path, row, preamble="import")
    with pytest.raises(RunError, match="preamble of programs does not run here: ModuleNotFoundError"):
        code(tmp_path, row, preamble="import no_such_module").checked_examples()


def test_the_name_of_the_module_is_a_setting(tmp_path: Path) -> None:
    """A guarded block runs as in `python solution.py`, with nothing to read, or not, as on import."""
    row = {"prompt": "Add.", "tests": TESTS}
    answer = code(tmp_path, row).examples()[0].answer
    shown = f"{RIGHT}if __name__ == '__main__':\n    print(add(1, 2))\n"
    reads = f"{RIGHT}if __name__ == '__main__':\n    print(add(1, int(input())))\n"
    defines = "if __name__ == '__main__':\n    def add(a, b):\n        return a + b\n"
    pickles = f"import pickle\n{RIGHT}class A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A\n"
    programs = [shown, reads, defines, pickles]
    assert code(tmp_path, row).scores(programs, [answer] * 4) == [1.0, 0.0, 1.0, 1.0]
    assert code(tmp_path, row, module="solution").scores(programs, [answer] * 4) == [1.0, 1.0, 0.0, 1.0]


def test_tests_that_check_nothing_or_are_no_text_are_refused(tmp_path: Path) -> None:
    for tests in (
        "def test_add():\n    assert add(1, 2) == 3\n",
        "import unittest\nclass T(unittest.TestCase):\n    pass\n",
        "'Only a text.'\n# add(1, 2)",
    ):
        with pytest.raises(RecipeError, match="row 1: its tests define and import names and check nothing"):
            code(tmp_path, {"prompt": "Add.", "tests": tests}).examples()
    for wrong, kind in ((7, "int"), ({"a": 1}, "dict"), ([TESTS, 1], "int"), ([[TESTS]], "list")):
        with pytest.raises(RecipeError, match=rf"row 1: column 'tests'.* no text but a {kind}"):
            code(tmp_path, {"prompt": "Add.", "tests": wrong}).examples()
    with pytest.raises(RecipeError, match="column 'name' holds no text but a int"):
        code(tmp_path, {"prompt": "Add.", "tests": TESTS, "name": 3}, entry_point="name").examples()
    with pytest.raises(RecipeError, match="column 'name' holds 'a b', not a name"):
        code(tmp_path, {"prompt": "Add.", "tests": TESTS, "name": "a b"}, entry_point="name").examples()
