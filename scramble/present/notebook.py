"""What objects look like in a notebook: a line and a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def html(about: object, rows: Sequence[Mapping[str, Any]]) -> str:
    """An object's `repr` as a paragraph, and rows as a table; all text is escaped.

    Args:
        about: the object.
        rows: by column; all have the same columns.
    """
    import pandas as pd

    line = f"<p><code>{escape(repr(about))}</code></p>"
    return line + (pd.DataFrame(rows).to_html(index=False, border=0) if rows else "")
