"""The model card of an output: what it is made of, how, and the verdict.

It takes the place of the base's README.md, which is kept beside it as README-base.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scramble.transforms.manifest import Equivalence, Manifest
from scramble.transforms.record import has_manifest

CARD, BASE_CARD = "README.md", "README-base.md"


def renamed(source: Path, *, back: bool = False) -> Mapping[str, str | None]:
    """Under which name each card of `source` goes into the output; None leaves it out.

    Args:
        back: the output is the base again.
    """
    if not has_manifest(source):
        return {} if back else {CARD: BASE_CARD}
    return {CARD: None, BASE_CARD: CARD} if back else {CARD: None}


def card(name: str, base: str, manifest: Manifest) -> str:
    """Markdown with the metadata block that the hub reads.

    Args:
        name: the output folder's name.
        base: a hub id, or a folder.
    """
    hub = base if not Path(base).is_dir() else None
    head = ["library_name: transformers", *([f"base_model: {hub.split('@')[0]}"] if hub else [])]
    rows = []
    if manifest.fold is not None:
        rows.append(f"| fold | whole model | | | {_verdict(manifest.fold.equivalence)} |")
    for done in manifest.scrambles:
        for step in done.steps:
            place = "whole model" if step.layer is None else f"layer {step.layer}"
            verdict = _verdict(done.equivalence)
            rows.append(f"| {step.symmetry} | {place} | {step.group} | {step.seed} | {verdict} |")
    shown = base if hub else Path(base).name
    return "\n".join(
        [
            *("---", *head, "tags:", "- scramble", "---", ""),
            *(f"# {name}", ""),
            f"`{shown}` with its geometry changed and its function kept, up to rounding in the stored dtype,",
            "by [scramble](https://arxiv.org/abs/2511.08567). Tokenizer and licence are the base's.",
            *("", "| step | where | group | seed | verdict |", "|---|---|---|---|---|", *rows, ""),
            "`scramble.json` is the record, `scramble invert` goes back, and",
            f"`scramble verify {shown} {name}` repeats the check.",
            "",
        ]
    )


def _verdict(found: Equivalence | None) -> str:
    if found is None:
        return "not verified"
    return f"{found.verdict}: storage error {found.storage_error:.1e}, noise floor {found.noise_floor:.1e}"
