"""The `mask` of a recipe: which weights are trained (arXiv 2511.08567, figure 9, tables 4 and 5)."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from scramble.checkpoints import Checkpoint
from scramble.errors import RecipeError
from scramble.runs.section import Section

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    Masks = dict[str, Bool[np.ndarray, "..."]]


class _Mask(Section, ABC):
    """What a mask has of every kind.

    Attributes:
        others: what becomes of weights that no mask names: embeddings, output heads, norms and biases.
            The paper does not say.
    """

    kind: str
    others: Literal["frozen", "trained"] = "frozen"

    @abstractmethod
    def masks(self, start: Checkpoint) -> Masks:
        """True where a weight is trained, by tensor of the start.

        Raises:
            RecipeError: the masks were not made for this start.
            CheckpointError: a weight that is not finite or that cannot be read, or a damaged file.
        """

    @abstractmethod
    def check(self, start: Checkpoint) -> None:
        """What `masks` would refuse, as far as that is known without computing them."""

    def decided(self) -> dict[str, Any]:
        """What decides the weights."""
        return self.model_dump(mode="json")


class Geometric(_Mask):
    """Masks by the start's geometry, as `scramble principal` takes them (4.2, 5.1).

    Attributes:
        rank: of the reconstruction that the principal mask takes the largest entries of.
        alpha: share of each matrix that the principal and the low-magnitude mask take. `complement` is what
            is not principal, `safe` is low-magnitude or not principal.
    """

    kind: Literal["principal", "complement", "low", "safe"]
    rank: PositiveInt = 64
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def masks(self, start: Checkpoint) -> Masks:
        return self._computed(start, "low_magnitude" if self.kind == "low" else self.kind, 0)

    def check(self, start: Checkpoint) -> None:
        pass

    def _computed(self, start: Checkpoint, kind: str, seed: int) -> Masks:
        import numpy as np

        from scramble.measures.geometry.masks import all_masks
        from scramble.measures.geometry.subspaces import limited
        from scramble.measures.pairs.ends import CheckpointPair
        from scramble.measures.pairs.selection import Selection, matrices, read_ends

        run = CheckpointPair(start, start, str(start.folder))
        found: dict[str, list[Any]] = {}
        for name in matrices(run, Selection()):
            weight, _ = read_ends(run, name)
            (masks,) = all_masks(weight, limited(self.rank, weight.shape), [self.alpha], seed, name)
            whole, index = run.part(name)
            found.setdefault(whole, []).append(masks[kind][None] if index else masks[kind])
        return {name: np.concatenate(parts) for name, parts in found.items()}


class Random(Geometric):
    """As many weights of each matrix as its safe mask has, drawn at random.

    Attributes:
        seed: of the draw.
    """

    kind: Literal["random"]  # type: ignore[assignment]
    seed: int = 0

    def masks(self, start: Checkpoint) -> Masks:
        return self._computed(start, "random", self.seed)


class File(_Mask):
    """Masks that `scramble principal --write` wrote.

    Attributes:
        path: the file; its content and not its name is what tells two runs apart.
    """

    kind: Literal["file"]
    path: Path

    def masks(self, start: Checkpoint) -> Masks:
        from scramble.measures.geometry.mask_file import read_about, read_masks

        masks = read_masks(self.path)
        for name, mask in masks.items():
            if name not in start.tensors:
                raise RecipeError(f"mask.path: {self.path}: its tensor '{name}' is not in {start.folder}")
            if tuple(start.tensors[name].shape) != mask.shape:
                shape = tuple(start.tensors[name].shape)
                raise RecipeError(
                    f"mask.path: {self.path}: its mask of '{name}' is {mask.shape}, the weight is {shape}"
                )
        if read_about(self.path).get("start") != start.hash(masks):
            raise RecipeError(
                f"mask.path: {self.path}: made for another start than {start.folder}; "
                "write one with scramble principal START:END --write"
            )
        return masks

    def check(self, start: Checkpoint) -> None:
        self.masks(start)

    def decided(self) -> dict[str, Any]:
        try:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise RecipeError(f"mask.path: {self.path}: {error.strerror}") from None
        return super().decided() | {"path": digest}


Mask = Geometric | Random | File
