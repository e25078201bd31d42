"""The program in a completion: which of its fenced blocks counts, and where that block ends.

Blocks are those of CommonMark 0.31 (markdown-it-py).
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

_PYTHON = re.compile(r"(?:python|py)[\d.]*", re.IGNORECASE)
_LANGUAGE = re.compile(r"\{?\s*\.?([^\s{},:=]*)")  # `python`, `python title=x`, `{.python .numberLines}`
_INDENTED = re.compile(r"([ \t]+)(?:```|~~~)")
_FENCE = re.compile(r"`{3,}|~{3,}")


@dataclass(frozen=True)
class _Block:
    """A fenced block: its language, its text, and the line after it."""

    language: str
    text: str
    end: int


def program_in(completion: str, before: str = "") -> str:
    """The program that a completion gives.

    The whole completion, if it is Python. Else the last block whose language is Python; without any, the last
    block without a language; without any, the whole completion. A block that is not Python where Markdown
    ends it (a docstring holds a fence as long as the block's own, or text follows the closing fence on its
    line) ends at the first other fence after its opening, or else with the completion, if it is Python then.

    Args:
        before: what stands before a completion that is no block.
    """
    whole = before + completion
    if _is_python(whole):
        return whole
    blocks = _blocks(completion)
    for wanted in (_PYTHON.fullmatch, lambda language: not language):
        if found := [block for block in blocks if wanted(block.language)]:
            return found[-1].text
    return whole


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            for category in (SyntaxWarning, DeprecationWarning):  # a string such as "\\d" is no error
                warnings.simplefilter("ignore", category)
            ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _blocks(text: str) -> list[_Block]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    blocks: list[_Block] = []
    while tokens := _fences(lines):
        read = 0
        for token in tokens:
            blocks.append(_block(token, lines))
            read = blocks[-1].end
            if read != token.map[1]:
                break  # Markdown reads on from another line
        lines = lines[read:]
    return blocks


def _fences(lines: list[str]) -> list[Any]:
    """Markdown's fences; where there is none, those that are indented as code."""
    for text in (lines, _dedented(lines)):
        if found := [token for token in _parser().parse("\n".join(text)) if token.type == "fence"]:
            lines[:] = text
            return found
    return []


def _dedented(lines: list[str]) -> list[str]:
    margin = next((found[1] for line in lines if (found := _INDENTED.match(line))), "")
    return [line.removeprefix(margin) for line in lines]


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _block(token: Any, lines: list[str]) -> _Block:
    """The block of a fence; if it is Python only when it ends elsewhere, that one."""
    start, end = token.map
    found = _LANGUAGE.match(token.info.strip())
    language = found[1] if found else ""
    if (not language or _PYTHON.fullmatch(language)) and not _is_python(token.content):
        indent = lines[start].index(token.markup)
        body = "\n".join(re.sub(rf"\A\s{{0,{indent}}}", "", line) for line in lines[start + 1 :])
        ends = [one.start() for one in _FENCE.finditer(body) if one[0].startswith(token.markup)]
        for text in (body[:end].rstrip(" \t") for end in (*ends, None)):
            if _is_python(text):
                return _Block(language, text, start + 2 + text.count("\n"))
    return _Block(language, token.content, end)
