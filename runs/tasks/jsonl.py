"""Any data set with a prompt and an answer that is compared letter by letter."""

from __future__ import annotations

from typing import Literal

from scramble.runs.tasks.data.rows import FileTask
from scramble.runs.tasks.data.task import PatternTask


class Jsonl(FileTask, PatternTask):
    """Exact match of what `answer_pattern` extracts; by default the rest of the first line."""

    name: Literal["jsonl"]
    answer_pattern: str = r"\s*([^\n]+)"
