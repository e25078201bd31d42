"""Child processes of this Python."""

from __future__ import annotations

import sys


def python(*arguments: str) -> list[str]:
    """The command line of this Python with these arguments.

    With `-P` the working folder is no place to import from: a user's `runs.py` there is never taken for a
    module of ours, nor a `numpy.py` for numpy.
    """
    return [sys.executable, "-P", *arguments]
