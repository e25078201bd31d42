"""Questions whose answers need tools: a calculator, and a search in local documents. Several turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from scramble.runs.tasks.calculator import calculate
from scramble.runs.tasks.data.cells import cell
from scramble.runs.tasks.data.documents import Documents
from scramble.runs.tasks.data.example import Example, Turn, shown
from scramble.runs.tasks.data.rows import FileTask, read_rows
from scramble.runs.tasks.data.task import PatternTask


class Tools(FileTask, PatternTask):
    """The model's chat template must know tools; TRL calls them and lets the model go on.

    Attributes:
        documents: a .jsonl or .parquet file with a column `text`; without it there is no search.
        calls: of tools in a row, at most.
        answer_pattern: matched at the start of the last message.
    """

    paths: ClassVar[tuple[str, ...]] = ("data", "documents")

    name: Literal["tools"]
    documents: str | None = None
    calls: PositiveInt = 4
    answer_pattern: str = r"(?:[\s\S]*Answer:)?\s*([^\n]+)"

    @property
    def tools(self) -> list[Callable[[str], str]]:
        return [calculator, *([_search(str(Path(self.documents).resolve()))] if self.documents else [])]

    @property
    def turns(self) -> int:
        return self.calls

    def row(self, example: Example) -> dict[str, Any]:
        prompt = example.prompt
        chat = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
        return {"prompt": shown(chat), "answer": example.answer}

    def checked_examples(self) -> list[Example]:
        _ = self.tools  # reads the documents
        return super().checked_examples()


def calculator(expression: str) -> str:
    """Calculate with numbers.

    Args:
        expression: Numbers joined by + - * / // % ** and brackets.

    Returns:
        The value.
    """
    return str(calculate(expression))


@cache
def _search(path: str) -> Callable[[str], str]:
    rows = enumerate(read_rows(path, ("text",)), 1)
    documents = Documents([cell(row, "text", f"{path}: row {number}").text() for number, row in rows])

    def search(query: str) -> str:
        """Search the documents.

        Args:
            query: Words to look for.

        Returns:
            Up to three documents, the best first.
        """
        return "\n\n".join(documents.search(query)) or "nothing found"

    return search
