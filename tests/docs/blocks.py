"""The fenced blocks of a page, and how each is run in the page's folder."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

from scramble.cli.app import main
from scramble.interventions.experiment import Experiment
from scramble.runs.recipe.recipe import Recipe, parse

REPO = Path(__file__).parents[2]
OUTPUT = ("text", "console")
_NAMED = re.compile(r"#\s*([\w./-]+\.(?:ya?ml|py))(?:\s|$)")
_COMMAND = re.compile(r"(?:\$|>>>|scramble|make|pip|python3?|import|from)\s")
# What only a shell understands.
_SHELL = re.compile(r"[|&;<>$`*?(){}~]")
# What a section alone is put into, so that it can be checked.
_RECIPE: dict[str, Any] = {"model": "model", "task": {"name": "few-shot-sums"}, "steps": 100}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        name: of the file that the block is, from its first line `# NAME.yaml` or `# NAME.py`; None of others.
    """

    language: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        found = _NAMED.match(self.text) if self.language in ("yaml", "python") else None
        return found[1] if found else None


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks, in lists and quotes too, and indented ones, which have no language."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    return [
        Block(token.info.strip(), token.content, (token.map or [0])[0] + 1)
        for token in tokens
        if token.type in ("fence", "code_block")
    ]


class Page:
    """Runs the blocks of one page in order, in a folder that holds what the page may use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.printed: str | None = None

    def run(self, block: Block) -> None:
        """Run a block, or check that it is what the block before it printed.

        Raises:
            Exception: whatever the block raises; an AssertionError says what is wrong with it.
        """
        if block.language in OUTPUT:
            assert self.printed is not None, "there is no block before this one that could have printed it"
            assert not _COMMAND.search(block.text), "a block of output holds a command"
            assert _matches(block.text, self.printed), f"what was printed is:\n{self.printed}"
            return
        assert block.language in ("python", "sh", "yaml"), (
            f"no block may have the language '{block.language}'"
        )
        self.printed = getattr(self, f"_{block.language}")(block)

    def _python(self, block: Block) -> str:
        code = compile(block.text, f"line {block.line}", "exec")
        if block.name:
            (self.folder / block.name).write_text(block.text)
            return ""
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(code, self.namespace)
        return printed.getvalue()

    def _sh(self, block: Block) -> str:
        script = "\n".join(_checked(line) for line in block.text.replace("\\\n", " ").splitlines())
        commands = [words for line in script.splitlines() if (words := shlex.split(line, comments=True))]
        if not _SHELL.search(script) and all(words[0] == "scramble" for words in commands):
            return "".join(self._scramble(words) for words in commands)
        places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=os.environ | {"PATH": places, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        _assert_done(done.returncode, done.stdout, done.stderr)
        return done.stdout

    def _scramble(self, words: list[str]) -> str:
        """A command without anything of the shell's, in this process: a new one imports for seconds."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.object(sys, "argv", words),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        _assert_done(code, out.getvalue(), err.getvalue())
        return out.getvalue()

    def _yaml(self, block: Block) -> str:
        content = yaml.safe_load(block.text)
        assert isinstance(content, dict), "not a mapping"
        if "arms" in content:
            experiment = parse(Experiment, content, "experiment")
            experiment.recipe_for(experiment.base_arm, experiment.seeds[0], experiment.base)
        else:
            parse(Recipe, content if block.name else _RECIPE | content, "recipe")
        if block.name:
            (self.folder / block.name).write_text(block.text)
        return ""


def _assert_done(code: int, out: str, err: str) -> None:
    assert code == 0, f"exit code {code}:\n{out[-2000:]}{err[-4000:]}"


def unused(blocks: list[Block]) -> list[str]:
    """Files of Python that no later shell block names, so that nothing would run them."""
    return [
        block.name
        for at, block in enumerate(blocks)
        if block.language == "python" and block.name
        if not any(later.language == "sh" and block.name in later.text for later in blocks[at:])
    ]


def trains(blocks: list[Block]) -> bool:
    """Whether a block trains a model."""
    pattern = r"^\s*scramble (run|experiment run|demo)\b"
    return any(block.language == "sh" and re.search(pattern, block.text, re.M) for block in blocks)


def _matches(shown: str, printed: str) -> bool:
    """Whether a text was printed; `...` stands for anything, and widths of spaces do not matter."""
    squeezed = " ".join(printed.split())
    parts = [re.escape(" ".join(part.split())) for part in shown.split("...")]
    return bool(re.search(r"\s*.*?\s*".join(parts), squeezed))


def _checked(line: str) -> str:
    """What of a line of shell is run: of `make TARGET` and `pip install` only what they name is checked."""
    if re.match(r"\s*(make|pip)\s", line):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            return shlex.join(["make", "--dry-run", "-C", str(REPO), *words[1:]])
        assert words[1] == "install", f"pip does nothing but install here: {line}"
        _check_install(words[2:])
        return ""
    assert not re.search(r"\bpip3?\s+install\b", line), f"pip install begins its line: {line}"
    return line


def _check_install(words: list[str]) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = itertools.chain(project["dependencies"], *extras.values())
    known = {Requirement(one).name for one in listed}
    rest = iter(words)
    for word in rest:
        if word in ("-c", "--constraint"):
            file = next(rest)
            assert (REPO / file).is_file(), f"there is no {file}"
            continue
        here = word == "." or word.startswith(".[")
        asked = Requirement(f"{project['name']}{word[1:]}" if here else word)
        if asked.name == project["name"]:
            assert asked.extras <= extras.keys(), f"{word}: no such extra"
        else:
            assert asked.name in known, f"{word}: not a package that the project needs"
