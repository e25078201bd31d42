"""Shapes and dtypes in signatures are true, since the tests check them on every call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from scramble.checkpoints.storage import STORAGES, bf16_to_float32, float32_to_bf16
from scramble.measures.curvature.loss import token_losses
from scramble.measures.geometry.subspaces import Decomposition, principal_angles, singular_values
from scramble.measures.pairs import bits
from scramble.measures.updates import kernels
from scramble.measures.updates.row_column import fit_row_column
from tests import typed
from tests.project.sources import MODULES


def functions() -> dict[str, Callable[..., Any]]:
    """Every function and dataclass of the project by name, whether or not it is checked."""
    found = {}
    for name in MODULES:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for path, value in typed.members(module):
            found[f"{name}.{path}"] = value
    return found


def test_every_array_annotation_is_checked() -> None:
    holding, bare = [], []
    for name, function in functions().items():
        if typed.arrays(list(typed.hints_of(function).values())):
            (holding if hasattr(function, "checks") else bare).append(name)
    assert not bare
    assert len(holding) > 140
    for name in ("kernels.first_pass", "row_column.RowColumnFit.__init__", "loss.token_losses"):
        assert any(one.endswith(name) for one in holding), name


WORDS, VALUES = np.zeros(3, np.uint16), np.zeros(3, np.float32)
WRONG = {
    "dtype": lambda: bf16_to_float32(np.zeros(3, np.uint32)),
    "dtype of a table's function": lambda: STORAGES["BF16"].encode(VALUES),
    "dimensions": lambda: singular_values(np.zeros(3)),
    "length that differs": lambda: principal_angles(np.eye(3), np.eye(4)),
    "compiled": lambda: bits.widen(WORDS, np.zeros(3)),
    "compiled, length": lambda: bits.widen(WORDS, VALUES[:2]),
    "compiled, later": lambda: kernels.add_dots(np.zeros((2, 3)), 3, np.zeros((2, 3))),
    "torch, imported for types": lambda: token_losses(torch.nn.Linear(2, 2), torch.zeros(1, 3)),
    "field": lambda: Decomposition(np.eye(3), np.zeros(2), np.eye(3)),
    "function with a loop that is compiled": lambda: fit_row_column(
        np.zeros((2, 2)), np.zeros((2, 2), np.uint16)
    ),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_or_dtype_raises(call: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        call()


def test_right_ones_do_not() -> None:
    bits.widen(np.array([0x3F80, 0, 0], np.uint16), VALUES)
    assert VALUES.tolist() == [1, 0, 0]
    assert float32_to_bf16(VALUES).tolist() == [0x3F80, 0, 0]


def test_an_annotation_that_cannot_be_evaluated_is_an_error() -> None:
    def wrong(values: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="Missing"):
        typed.checked(wrong)(1)
