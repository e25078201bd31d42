"""The reference's table of families, as `scramble apply`, `fold` and `verify` measure it.

Family by symmetry: the error of the logits, or why there is none.

python -m tests.docs.support    # writes the table into docs/reference/families.md
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from scramble.errors import SymmetryError
from scramble.operations.apply import apply
from scramble.operations.fold import fold
from scramble.symmetries import SYMMETRIES
from tests.models import FAMILIES, Tiny

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
START, END = "<!-- support: python -m tests.docs.support -->\n", "<!-- end of support -->\n"
COLUMNS = [name for name in SYMMETRIES if name != "residual-rotation"] + ["fold", "residual-rotation"]
TICK = "✓"
BOUND = 1e-13
"""What a tick says: the largest relative error of the logits, in float64."""
# Reasons, by what the refusal says.
REASONS = {
    "no axis expert": "no routed experts",
    "clip_qkv": "only without `clip_qkv` (with it `vo-rotation:method=signed-permutation`)",
    "q and k pass a LayerNorm": "only without the LayerNorm on q and k, which subtracts a mean over channels",
    "a norm takes the change": "gains follow the norms of q and k, and a norm takes a change of scale back",
    "no tensor is linear": "no gate: every neuron passes a nonlinearity, or a clamp",
    "ALiBi": "only without ALiBi, whose slopes cannot move",
    "the norms are LayerNorms": "the norms are LayerNorms, which subtract a mean over channels",
    "norms follow the blocks": "gains of norms after a block sit before the residual sum and cannot fold",
}
LETTERS = dict(zip(REASONS, "abcdefgh", strict=False))
"""What stands for a reason in the table."""


def measure(family: str, symmetry: str, switched: bool, scratch: Path) -> float | str:
    """The error that the command's own verification finds on a small float64 model, or the refusal's key.

    The larger of what the algebra and the stored weights are off by.

    Raises:
        ScrambleError: a command refused for another reason than the architecture.
    """
    model = Tiny(family, 2, 2, 8, layers=2, switched=switched, seed=1)
    base, out = model.save(scratch / "base"), scratch / "out"
    layer = min(model.sparse or {0})  # one with routed experts, where there are any
    try:
        if symmetry == "fold":
            done = fold(base, out).fold
        elif symmetry == "residual-rotation":
            fold(base, scratch / "folded", check=False)
            done = apply(scratch / "folded", out, symmetries=(symmetry,)).scrambles[-1]
        else:
            layers = None if SYMMETRIES[symmetry].whole else str(layer)
            done = apply(base, out, layers=layers, symmetries=(symmetry,)).scrambles[-1]
    except SymmetryError as refused:
        return next(key for key in REASONS if key in str(refused))
    assert done is not None
    found = done.equivalence
    assert found is not None
    assert found.verdict == "equivalent", found.failed()
    assert found.algebra_error is not None
    return max(found.algebra_error, found.storage_error)


def cells(family: str) -> list[float | str]:
    """One a column: the larger error of the plain and the switched configuration, or a reason's key.

    Where only the switched configuration refuses, the key stands for both.
    """
    found: list[float | str] = []
    for symmetry in COLUMNS:
        answers = []
        for switched in (False, True):
            with TemporaryDirectory() as scratch:
                answers.append(measure(family, symmetry, switched, Path(scratch)))
        refusals = [answer for answer in answers if isinstance(answer, str)]
        found.append(
            refusals[0] if refusals else max(answer for answer in answers if not isinstance(answer, str))
        )
    return found


def table(rows: dict[str, list[float | str]]) -> str:
    """Markdown, with the reasons below."""
    lines = [
        "| family | " + " | ".join(f"`{name}`" for name in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for family, found in rows.items():
        shown = [f"({LETTERS[cell]})" if isinstance(cell, str) else TICK for cell in found]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    notes = [f"({LETTERS[key]}) {reason}" for key, reason in REASONS.items()]
    return "\n".join(lines) + "\n\n" + "; ".join(notes) + ".\n"


def printed() -> dict[str, list[str]]:
    """The rows that the page shows."""
    shown = PAGE.read_text().split(START)[1].split(END)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if "|" in line
    ]
    return {row[0]: row[1:] for row in rows[2:]}


if __name__ == "__main__":
    made = table({family: cells(family) for family in FAMILIES})
    text = PAGE.read_text()
    PAGE.write_text(re.sub(rf"(?s)({START}).*?({END})", lambda match: START + made + END, text))
