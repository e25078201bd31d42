"""Images of matrices by area means: stripes keep their weight, whatever the sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped


def area_means(
    values: Shaped[np.ndarray, "rows columns"], height: int, width: int
) -> Float64[np.ndarray, "height width"]:
    """The matrix as height x width cells, each the mean over its area.

    Cell i covers rows `i * rows / height` to `(i + 1) * rows / height`; a row that two cells share counts in
    each by the part that lies there. The mean of all is kept.

    Raises:
        ValueError: more cells than rows or columns, or none.
    """
    down = area_weights(values.shape[0], height)
    across = area_weights(values.shape[1], width)
    found: Float64[np.ndarray, "height width"] = (across @ (down @ values).T).T
    return found


def area_weights(size: int, cells: int) -> Any:
    """What each entry contributes to each cell: a sparse cells x size matrix whose rows sum to 1.

    In units of 1 / cells an entry is `cells` long and a cell `size`, so that overlaps are whole numbers.

    Raises:
        ValueError: more cells than entries, or none.
    """
    from scipy.sparse import csr_array

    if not 1 <= cells <= size:
        raise ValueError(f"{size} entries make 1 to {size} cells, not {cells}")
    cell, entry, overlap = [], [], []
    for number in range(cells):
        begin, end = number * size, (number + 1) * size
        touched = np.arange(begin // cells, -(-end // cells))
        cell.append(np.full(len(touched), number))
        entry.append(touched)
        overlap.append(np.minimum(end, (touched + 1) * cells) - np.maximum(begin, touched * cells))
    places = (np.concatenate(cell), np.concatenate(entry))
    return csr_array((np.concatenate(overlap) / size, places), shape=(cells, size))
