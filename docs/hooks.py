"""Pages of the reference that are made of the code: commands, columns, the Python API.

MkDocs calls `on_files`. Nothing that is made here is committed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import scramble
from scramble.columns import Columns

PAGES = {"commands": "Commands", "columns": "Columns", "python": "Python API"}
# Titles of the tables that are no measure's.
_TITLES = {
    "verify --by layer": "verify --by layer",
    "decompose": "overlap --decompose",
    "correlate": "rates --correlate",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {"commands": commands(), "columns": columns(), "python": python()}
    for name, text in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Every command: what it does, its arguments and options, as `--help` says them."""
    from typer.main import get_command

    from scramble.cli.app import joined

    return "\n".join(["# Commands", "", _INTRODUCTION, "", *_commands(get_command(joined()), "scramble")])


_INTRODUCTION = """\
Results go to standard output and progress to standard error. An error is one line on standard error, with
exit code 2; `verify`, `apply`, `fold` and `invert` exit with 1 where equivalence failed. What is printed is
defined under [columns](columns.md)."""


def _commands(command: Any, name: str) -> Iterator[str]:
    subcommands = getattr(command, "commands", {})
    context = command.context_class(command, info_name=name)
    yield f"{'##' if name.count(' ') < 2 else '###'} {name}"
    yield ""
    if command.help:
        yield from (inspect.cleandoc(command.help), "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("```text", f"{name} {usage}", "```", "")
    records = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    if records:
        yield from ("| argument or option | meaning |", "|---|---|")
        yield from (f"| `{_cell(names)}` | {_cell(help)} |" for names, help in records)
        yield ""
    for sub in sorted(subcommands):
        yield from _commands(subcommands[sub], f"{name} {sub}")


def columns() -> str:
    """Every column of every table, from the schema."""
    from scramble.interventions.columns import TABLES

    parts = [
        "# Columns",
        "",
        "The columns of every table, as `--help` and `frame.attrs['columns']` give them. Sections are those",
        'of [arXiv 2511.08567](https://arxiv.org/abs/2511.08567) ("paper"); a definition without a source is',
        "this project's. Words are explained in the [glossary](../glossary.md).",
        "",
    ]
    for name, table in TABLES.items():
        parts += [f"## {_TITLES.get(name, name)}", "", *_table(table), ""]
    return "\n".join(parts)


def _table(table: Columns) -> Iterator[str]:
    yield from ("| column | unit | definition | source |", "|---|---|---|---|")
    for one in table.values():
        yield f"| `{one.name}` | {one.unit} | {_cell(one.definition)} | {_cell(one.source)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Change a checkpoint": ("apply", "fold", "invert", "verify", "inspect", "compose"),
    "Measure what training did": (
        *("diff", "overlap", "spectra", "principal", "consensus", "rates", "curvature", "gates"),
    ),
    "Read runs": ("open_run", "CheckpointPair", "RunFolder"),
    "What they return": ("Manifest", "Equivalence", "Transform"),
    "Symmetries": (
        *("Symmetry", "VoRotation", "HeadPermutation", "QkRotation", "NeuronPermutation"),
        *("VoScaling", "QkScaling", "NeuronScaling"),
        *("ExpertPermutation", "ResidualPermutation", "ResidualRotation"),
    ),
    "Errors": ("ScrambleError",),
}


def python() -> str:
    """Every public name with its docstring.

    Raises:
        ValueError: a public name has no group.
    """
    shown = {name for group in _GROUPS.values() for name in group}
    if left := set(scramble.__all__) - shown - {"__version__"}:
        raise ValueError(f"docs/hooks.py names no group for {', '.join(sorted(left))}")
    parts = [
        "# Python API",
        "",
        "`import scramble` loads nothing heavy; what a name needs is imported when it is used.",
        "",
    ]
    for group, names in _GROUPS.items():
        parts += [f"## {group}", ""]
        for name in names:
            there = getattr(scramble, name)
            parts += [f"::: {there.__module__}.{there.__qualname__}", ""]
    return "\n".join(parts)
