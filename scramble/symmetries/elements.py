"""Group elements, and their action on a named axis.

An element acts on one axis. It may be one element for each position of other axes (`over`): a rotation of
`v` over `kv_head` is a stack of matrices, one a KV head. Elements act on views whose dimensions are named
axes (`scramble.architecture.axes`), so one action serves every tensor that carries the axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np

from scramble.architecture.axes import Array, Layout, Sizes, bare
from scramble.checkpoints.storage import bf16_to_float32, float32_to_bf16
from scramble.symmetries.products import multiply

if TYPE_CHECKING:
    from jaxtyping import Float64

ElementKind = Literal["rotation", "permutation", "signed-permutation", "scaling"]


class Element(Protocol):
    """An element of a group that acts on `axis`, one for each position of the axes `over`.

    Attributes:
        exact: whether it acts on stored words, so that nothing is rounded; a scaling, within their range.
    """

    kind: ClassVar[ElementKind]
    exact: ClassVar[bool]

    @property
    def axis(self) -> str: ...

    @property
    def over(self) -> tuple[str, ...]: ...

    @property
    def data(self) -> Array: ...

    def inverse(self) -> Element: ...

    def dual(self) -> Element:
        """What acts on the dual of the axis: the inverse's transpose."""
        ...

    def concerns(self, layout: Layout) -> bool:
        """Whether a tensor of this layout may change, or may forbid the element."""
        ...

    def act(self, view: Array, names: tuple[str, ...]) -> Array:
        """The image of a view whose dimensions are `names`; same shape."""
        ...

    def act_on_gain(self, view: Array, names: tuple[str, ...]) -> Array:
        """The image of factors, one a channel of the axis: they follow their channels, without signs."""
        ...

    def at(self, position: Mapping[str, int]) -> Element:
        """The element at one index of those axes of `over` that `position` names."""
        ...

    def fault(self) -> str | None:
        """Why the data are not an element of the group, or None."""
        ...


@dataclass(frozen=True, eq=False)
class Rotation:
    """`x'[.., i] = sum_j matrix[.., i, j] x[.., j]`, with orthogonal matrices. Acts on float64 only.

    Attributes:
        data: float64 (*over, n, n). Not annotated: a manifest may hold anything, and `fault` judges it.
    """

    axis: str
    over: tuple[str, ...]
    data: Array
    kind: ClassVar[ElementKind] = "rotation"
    exact: ClassVar[bool] = False

    def dual(self) -> Rotation:
        return self

    def concerns(self, layout: Layout) -> bool:
        return layout.carries(self.axis)

    def inverse(self) -> Rotation:
        return Rotation(self.axis, self.over, self._transposed)

    @cached_property
    def _transposed(self) -> Float64[np.ndarray, "*over n n"]:
        return np.ascontiguousarray(self.data.swapaxes(-1, -2))

    def act(self, view: Array, names: tuple[str, ...]) -> Array:
        # One product along the longest other dimension for each position of the rest. BLAS takes strides, so
        # nothing is transposed in memory. A dimension of one, the last, stands in where there is no other.
        known = [names.index(axis) for axis in (*self.over, self.axis)]
        rest = [at for at in range(view.ndim + 1) if at not in known]
        rest.sort(key=lambda at: (*view.shape, 1)[at])
        order = [*known[:-1], *rest, known[-1]]
        stack = len(self.over)
        matrices = np.expand_dims(self._transposed, tuple(range(stack, stack + len(rest) - 1)))
        image = np.empty_like(view)
        x, y = (array[..., None].transpose(order) for array in (view, image))
        with np.errstate(invalid="ignore", over="ignore"):  # who stores the image refuses what is not finite
            multiply(x, matrices, y)
        return image

    def act_on_gain(self, view: Array, names: tuple[str, ...]) -> Array:
        return view  # equal factors only; `scramble.transforms.plan` refuses others

    def at(self, position: Mapping[str, int]) -> Rotation:
        return Rotation(self.axis, *_at(self, position))

    def fault(self) -> str | None:
        if self.data.dtype != np.float64 or self.data.ndim < 2 or self.data.shape[-1] != self.data.shape[-2]:
            return f"not a stack of square float64 matrices but {self.data.dtype} {self.data.shape}"
        gap = np.abs(self.data @ self.data.swapaxes(-1, -2) - np.eye(self.data.shape[-1])).max()
        return None if gap < 1e-12 else f"not orthogonal: |R R^T - 1| reaches {gap:.1e}"


@dataclass(frozen=True, eq=False)
class Permutation:
    """`x'[.., i] = x[.., data[.., i]]`. Moves stored words, so it is exact in every dtype.

    Attributes:
        data: int64 (*over, n); judged by `fault`.
    """

    axis: str
    over: tuple[str, ...]
    data: Array
    kind: ClassVar[ElementKind] = "permutation"
    exact: ClassVar[bool] = True

    def dual(self) -> Permutation:
        return self

    def concerns(self, layout: Layout) -> bool:
        return layout.carries(self.axis)

    def inverse(self) -> Permutation:
        return Permutation(self.axis, self.over, np.argsort(self.data, axis=-1))

    def act(self, view: Array, names: tuple[str, ...]) -> Array:
        # One gather for each position of `over` moves whole blocks; a gather by broadcast indices does not.
        image, at = np.empty_like(view), names.index(self.axis)
        for position in np.ndindex(self.data.shape[:-1]):
            chosen = [slice(None)] * view.ndim
            for axis, index in zip(self.over, position, strict=True):
                chosen[names.index(axis)] = slice(index, index + 1)
            # Every index is there, so nothing is clipped; to raise, numpy would gather into a buffer first.
            into = image[tuple(chosen)]
            np.take(view[tuple(chosen)], self.data[position], axis=at, out=into, mode="clip")
        return image

    def act_on_gain(self, view: Array, names: tuple[str, ...]) -> Array:
        if not set(self.over) - set(names):
            return self.act(view, names)
        if (self.data != np.arange(self.data.shape[-1])).any():
            raise ValueError(f"factors of {self.axis} are shared over {self.over} and cannot move")
        return view

    def at(self, position: Mapping[str, int]) -> Permutation:
        return Permutation(self.axis, *_at(self, position))

    def fault(self) -> str | None:
        if self.data.dtype != np.int64 or self.data.ndim < 1:
            return f"not int64 indices but {self.data.dtype} {self.data.shape}"
        if (np.sort(self.data, axis=-1) != np.arange(self.data.shape[-1])).any():
            return "not a permutation"
        return None


@dataclass(frozen=True, eq=False)
class SignedPermutation:
    """`x'[.., i] = sign(data[.., i]) x[.., |data[.., i]| - 1]`: data holds 1-based indices with signs.

    Exact in every dtype: a stored word changes its sign bit only.

    Attributes:
        data: int64 (*over, n); judged by `fault`.
    """

    axis: str
    over: tuple[str, ...]
    data: Array
    kind: ClassVar[ElementKind] = "signed-permutation"
    exact: ClassVar[bool] = True

    def dual(self) -> SignedPermutation:
        return self

    def concerns(self, layout: Layout) -> bool:
        return layout.carries(self.axis)

    def inverse(self) -> SignedPermutation:
        index = np.abs(self.data) - 1
        back = np.argsort(index, axis=-1)
        signs = np.take_along_axis(np.sign(self.data), back, axis=-1)
        return SignedPermutation(self.axis, self.over, signs * (back + 1))

    def act(self, view: Array, names: tuple[str, ...]) -> Array:
        moved = Permutation(self.axis, self.over, np.abs(self.data) - 1).act(view, names)
        negative = _along(self.data < 0, (*self.over, self.axis), names, view.ndim)
        if moved.dtype.kind == "u":
            return moved ^ (negative.astype(moved.dtype) << (8 * moved.dtype.itemsize - 1))
        return np.where(negative, -moved, moved)

    def act_on_gain(self, view: Array, names: tuple[str, ...]) -> Array:
        return Permutation(self.axis, self.over, np.abs(self.data) - 1).act_on_gain(view, names)

    def at(self, position: Mapping[str, int]) -> SignedPermutation:
        return SignedPermutation(self.axis, *_at(self, position))

    def fault(self) -> str | None:
        if self.data.dtype != np.int64 or self.data.ndim < 1 or (self.data == 0).any():
            return f"not signed 1-based int64 indices but {self.data.dtype} {self.data.shape}"
        return Permutation(self.axis, self.over, np.abs(self.data) - 1).fault()


@dataclass(frozen=True, eq=False)
class Scaling:
    """`x'[.., i] = 2^data[.., i] x[.., i]`, and on the dual of the axis the inverse.

    Exact in every floating dtype as long as no value leaves its range of normal numbers.

    Attributes:
        data: int64 exponents (*over, n); judged by `fault`.
    """

    axis: str
    over: tuple[str, ...]
    data: Array
    kind: ClassVar[ElementKind] = "scaling"
    exact: ClassVar[bool] = True

    def dual(self) -> Scaling:
        return self.inverse()

    def concerns(self, layout: Layout) -> bool:
        return self.axis in layout.linear

    def inverse(self) -> Scaling:
        return Scaling(self.axis, self.over, -self.data)

    def act(self, view: Array, names: tuple[str, ...]) -> Array:
        exponents = _along(self.data, (*self.over, self.axis), names, view.ndim)
        with np.errstate(over="ignore", under="ignore"):  # who stores the image refuses what left the range
            if view.dtype == np.uint16:
                return float32_to_bf16(np.ldexp(bf16_to_float32(view), exponents))
            return np.ldexp(view, exponents)

    def act_on_gain(self, view: Array, names: tuple[str, ...]) -> Array:
        return view

    def at(self, position: Mapping[str, int]) -> Scaling:
        return Scaling(self.axis, *_at(self, position))

    def fault(self) -> str | None:
        if self.data.dtype != np.int64 or self.data.ndim < 1:
            return f"not int64 exponents but {self.data.dtype} {self.data.shape}"
        most = int(np.abs(self.data).max(initial=0))
        return None if most <= LARGEST else f"an exponent of {most} is beyond {LARGEST}"


LARGEST = 64
"""The largest exponent of a scaling: further out no float32 model computes."""
KINDS: dict[str, type[Rotation] | type[Permutation] | type[SignedPermutation] | type[Scaling]] = {
    kind.kind: kind for kind in (Rotation, Permutation, SignedPermutation, Scaling)
}


def _along(data: Array, axes: Sequence[str], names: Sequence[str], dimensions: int) -> Array:
    """Data of some axes, laid out to be broadcast against a view."""
    shape = [1] * dimensions
    for axis, size in zip(axes, data.shape, strict=True):
        shape[names.index(axis)] = size
    order = np.argsort([names.index(axis) for axis in axes])
    return data.transpose(order).reshape(shape)


def _at(element: Element, position: Mapping[str, int]) -> tuple[tuple[str, ...], Array]:
    index = tuple(position.get(axis, slice(None)) for axis in element.over)
    return tuple(axis for axis in element.over if axis not in position), element.data[index]


def act(array: Array, layout: Layout, sizes: Sizes, elements: Sequence[Element]) -> Array:
    """A copy of `array` with the elements applied, the first one first.

    Raises:
        ValueError: the shape is not the layout's, or a summand carries an element's axis without the axes
            that the element is indexed by.
    """
    image = np.asarray(array, order="C")
    for element in elements:
        acted = []
        for names, view in layout.views(image, sizes):
            acted.append(_act_on_view(element, view, names, layout.text))
        if len(acted) == 1:
            image = acted[0].reshape(image.shape)
            continue
        image = np.empty_like(image)
        for part, (_, view) in zip(acted, layout.views(image, sizes), strict=True):
            view[...] = part
    return image.copy() if np.may_share_memory(image, array) else image


def _act_on_view(element: Element, view: Array, names: tuple[str, ...], text: str) -> Array:
    places = [at for at, name in enumerate(names) if bare(name) == element.axis]
    for place in places:
        # A tensor may carry the axis twice, as a map of the stream to itself does.
        one = tuple(
            element.axis if at == place else "" if at in places else name for at, name in enumerate(names)
        )
        mark = names[place].replace(element.axis, "")
        if mark in ("||", "~"):
            view = element.act_on_gain(view, one)
            continue
        if missing := set(element.over) - set(names):
            raise ValueError(f"'{text}' carries {element.axis} without {sorted(missing)}")
        view = (element.dual() if mark == "*" else element).act(view, one)
    return view
