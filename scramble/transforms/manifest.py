"""`scramble.json`: what was done to a checkpoint, and the group elements that undo it.

The stored elements are the record, not the seed: an inverse never depends on a generator's version. They
lie in a folder of their own, because loaders take every safetensors file beside a single-file model for
weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scramble.architecture.axes import Array
from scramble.checkpoints import Checkpoint
from scramble.errors import ManifestError
from scramble.present.notebook import html
from scramble.symmetries import KINDS, Element, ElementKind
from scramble.transforms.selection import ranges

Elements = Mapping[str, Array]
"""Key to data, as in the elements file."""

MANIFEST = "scramble.json"
ELEMENTS = "scramble/elements.safetensors"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ElementRecord(_Record):
    """One stored element; `key` names its tensor in the elements file."""

    key: str
    kind: ElementKind
    axis: str
    over: tuple[str, ...]

    def element(self, stored: Elements) -> Element:
        """The element, from the arrays of the elements file."""
        return KINDS[self.kind](self.axis, self.over, stored[self.key])


class Step(_Record):
    """One symmetry in one layer, or (`layer` None) in the whole model; its elements act in order."""

    symmetry: str
    options: dict[str, Any]
    layer: Annotated[int, Field(ge=0)] | None
    seed: int
    group: str
    elements: tuple[ElementRecord, ...]


class TouchedTensor(_Record):
    """A tensor that changed: sha256 of its bytes, stored dtype, and `||rounded - exact|| / ||exact||`."""

    before: str
    after: str
    dtype: str
    rounding_error: float


class Source(_Record):
    """The checkpoint that was scrambled. `hash` covers headers, sizes and touched tensors, or every byte."""

    path: str
    hash: str
    hash_kind: Literal["touched", "full"]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        touched: Iterable[str],
        *,
        full: bool,
        known: Mapping[str, str] | None = None,
    ) -> Source:
        """The source that a checkpoint is.

        Args:
            touched: the tensors whose bytes the hash covers.
            full: cover every byte.
            known: hashes of tensors that were computed already.
        """
        digest = checkpoint.hash(touched, full=full, known=known or {})
        return cls(path=str(checkpoint.folder), hash=digest, hash_kind="full" if full else "touched")

    def is_of(self, checkpoint: Checkpoint, touched: Iterable[str]) -> bool:
        """Whether a checkpoint is the one that was hashed."""
        names = list(touched)
        held = not set(names) - checkpoint.tensors.keys()
        return held and self.hash == checkpoint.hash(names, full=self.hash_kind == "full")


class LayerErrors(_Record):
    """`||difference|| / ||hidden states||` where they leave a layer, in the base's frame."""

    layer: int
    algebra: float | None = None
    storage: float
    noise: float


class Equivalence(_Record):
    """The verdict of `scramble.verify`; `None` where a check did not run.

    Errors are `||difference|| / ||logits||`; `weights_off` counts stored weights that are not the transformed
    ones rounded to nearest; `kl` is the stored model's mean KL divergence from the base in nats a token;
    `floor_ratio` is storage error over noise floor.
    """

    verdict: Literal["equivalent", "not equivalent"]
    algebra_error: float | None
    algebra_bound: float | None
    weights_off: int | None
    storage_error: float
    noise_floor: float
    floor_ratio: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None
    arithmetic: str
    tokens: int
    storage_bound: float | None = None
    layers: tuple[LayerErrors, ...] = ()

    def __repr__(self) -> str:
        parts = [f"{one['check']} {one['value']:.3g} (bound {one['bound']:.3g})" for one in self.checks()]
        return f"<Equivalence: {self.verdict}; {', '.join(parts)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return html(self, self.checks())

    @classmethod
    def judged(cls, **values: Any) -> Equivalence:
        """What was measured, and the verdict that it gives: equivalent if every check that ran has passed.

        Args:
            values: the fields but for the verdict.

        Returns:
            The same with the verdict.
        """
        found = cls(verdict="equivalent", **values)
        passed = bool(found.checks()) and all(one["passed"] for one in found.checks())
        return found if passed else found.model_copy(update={"verdict": "not equivalent"})

    @property
    def equivalent(self) -> bool:
        """Whether every check that ran has passed."""
        return self.verdict == "equivalent"

    def failed(self) -> str:
        """The checks that did not pass, in words."""
        bad = [one for one in self.checks() if not one["passed"]]
        return "; ".join(f"{one['check']} {one['value']:.3g} exceeds {one['bound']:.3g}" for one in bad)

    def checks(self) -> list[dict[str, Any]]:
        """The checks that ran: value, bound, and whether it passed."""
        ran = [
            ("algebra", self.algebra_error, self.algebra_bound),
            ("weights_off", self.weights_off, 0),
            ("storage", self.storage_error, self.storage_bound),
        ]
        return [
            {"check": name, "value": value, "bound": bound, "passed": value <= bound}
            for name, value, bound in ran
            if value is not None and bound is not None
        ]


class Scramble(_Record):
    """One call of `apply`."""

    version: str
    source: Source
    steps: tuple[Step, ...]
    tensors: dict[str, TouchedTensor]
    equivalence: Equivalence | None = None


class Fold(_Record):
    """Norm weights moved into the weights that read them; the folded checkpoint is a base of its own."""

    version: str
    source: Source
    tensors: dict[str, TouchedTensor]
    equivalence: Equivalence | None = None


class Manifest(_Record):
    """Everything that was applied, oldest first."""

    format: Literal[1] = 1
    family: str
    fold: Fold | None = None
    scrambles: tuple[Scramble, ...]

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest of a scrambled or folded checkpoint.

        Args:
            folder: the checkpoint's folder, which holds `scramble.json`.

        Returns:
            What was done to the checkpoint, and the verdicts.

        Raises:
            ManifestError: `scramble.json` is missing or damaged.
        """
        path = Path(folder) / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise missing(path) from None
        except OSError as error:
            raise ManifestError(f"{path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ManifestError(f"{path}: {where}: {first['msg']}") from None

    @model_validator(mode="after")
    def _not_empty(self) -> Manifest:
        if self.fold is None and not self.scrambles:
            raise ValueError("neither a fold nor a scramble")
        return self

    @property
    def touched(self) -> dict[str, TouchedTensor]:
        """Every tensor that changed, as the last scramble that touched it left it."""
        return {name: record for scramble in self.scrambles for name, record in scramble.tensors.items()}

    def __repr__(self) -> str:
        done = [one.equivalence for one in (self.fold, *self.scrambles) if one is not None]
        verdict = (
            "not verified" if None in done else ", ".join(dict.fromkeys(one.verdict for one in done if one))
        )
        return f"<Manifest of a {self.family}: {'; '.join(self.described()) or 'nothing'}; {verdict}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = [
            {"symmetry": step.symmetry, "layer": "whole model" if step.layer is None else step.layer}
            | {"group": step.group}
            for step in self.steps
        ]
        return html(self, rows)

    def described(self) -> list[str]:
        """What was done, a sentence part for each symmetry and its layers."""
        found: dict[str, list[int | None]] = {}
        for step in self.steps:
            found.setdefault(step.symmetry, []).append(step.layer)
        parts = ["folded"] * (self.fold is not None)
        return parts + [f"{name} in {_where(layers)}" for name, layers in sorted(found.items())]

    @property
    def steps(self) -> list[Step]:
        """Every element that was applied, oldest first."""
        return [step for scramble in self.scrambles for step in scramble.steps]


def missing(path: Path) -> ManifestError:
    """The error of a part of a scrambled checkpoint that is not there."""
    return ManifestError(f"{path}: missing; give the folder of a scrambled checkpoint")


def _where(layers: Sequence[int | None]) -> str:
    return "the whole model" if None in layers else f"layers {ranges(layers)}"
