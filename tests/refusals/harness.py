"""What every refusal must be: exit code 2, one line on standard error, and nothing else anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from scramble.cli.app import joined
from scramble.errors import ScrambleError
from tests.conftest import Command
from tests.models import digest

NOWHERE, OTHER, OPTION = "a path that is not there", "a folder of something else", "a wrong option value"
# What every command must refuse.
ALWAYS = (NOWHERE, OTHER, OPTION)


class Usage(SystemExit):
    """Stands for an error of the command line itself: click prints the usage and exits."""


def nothing(folder: Path) -> None:
    """The world is bad enough as it is."""


@dataclass(frozen=True)
class Refusal:
    """A command line that must be refused, in the folder of the world.

    Attributes:
        name: what is wrong; one of `ALWAYS` where it fits.
        line: the command line, without the program's name.
        error: the class that is raised, none above it.
        says: what the message must hold.
        make: puts the bad input into a copy of the world.
    """

    name: str
    line: str
    error: type[BaseException]
    says: tuple[str, ...]
    make: Callable[[Path], object] = nothing

    @property
    def command(self) -> str:
        """The command's name, with that of its group."""
        words = shlex.split(self.line)
        return next(name for name in commands() if words[: len(name.split())] == name.split())

    def check(self, folder: Path, command: Command) -> None:
        """Call it in `folder`, which is the working directory."""
        words, before = shlex.split(self.line), digest(folder)
        found = command(*words)
        assert (found.code, found.out) == (2, ""), found.err
        shown = found.err
        if self.error is Usage:
            assert shown.startswith("Usage: ")
            shown = shown.splitlines()[-1]
        else:
            assert shown.startswith("scramble: ")
            assert shown.count("\n") == 1
            with pytest.raises(ScrambleError) as caught:
                command("--debug", *words)
            assert type(caught.value) is self.error
        assert "unexpected" not in shown
        for text in self.says:
            assert text in shown
        assert digest(folder) == before


@cache
def commands() -> list[str]:
    """The names of all commands of the app, those of groups with the group's."""

    def named(one: Any, prefix: str) -> list[str]:
        if hasattr(one, "commands"):  # typer may bring a click of its own
            return [name for key, inner in one.commands.items() for name in named(inner, f"{prefix} {key}")]
        return [prefix.strip()]

    return named(typer.main.get_command(joined()), "")


def always(line: str, nowhere: Expected, other: Expected, lost: str = "nowhere") -> list[Refusal]:
    """The three of `ALWAYS` for a command line with `{}` in place of a path."""
    return [
        Refusal(NOWHERE, line.format(lost), *nowhere),
        Refusal(OTHER, line.format("notes"), *other),
        Refusal(OPTION, f"{line.format('model')} --format xml", Usage, ("'--format'", "xml")),
    ]


Expected = tuple[type[BaseException], tuple[str, ...]]
