"""How an output gets its name: verified first, then with its manifest and card, all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scramble.checkpoints import PARTIAL, Checkpoint, Staging, open_checkpoint
from scramble.equivalence.certify import Claim, certify
from scramble.errors import NotEquivalentError
from scramble.transforms.card import CARD, card
from scramble.transforms.manifest import MANIFEST, Equivalence, Manifest

Report = Callable[[str], None]


def certified(
    stage: Staging,
    base: Checkpoint,
    claim: Callable[[Checkpoint], Claim],
    *,
    described_by: Path | None = None,
    report: Report,
) -> Equivalence:
    """Show that what was written computes the base's function.

    Args:
        claim: what the written checkpoint should hold.
        described_by: the folder whose tokenizer and configuration describe it, if not its own.

    Raises:
        NotEquivalentError: it does not.
    """
    report("verifying")
    written = open_checkpoint(stage.folder, suffix=PARTIAL, described_by=described_by)
    found = certify(base, written, claim(written))
    if not found.equivalent:
        raise NotEquivalentError(
            f"{stage.target}: not equivalent to {base.folder}, nothing was written: {found.failed()}"
        )
    return found


def publish(stage: Staging, manifest: Manifest, origin: str) -> None:
    """Write card and manifest, and give the output its name.

    Args:
        origin: the first base, a folder or a hub id.
    """
    stage.write(CARD, card(stage.target.name, origin, manifest).encode())
    stage.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    stage.commit()
