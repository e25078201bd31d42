"""What torch does not promise to keep, and what it is needed for.

- `torch.utils._pytree.tree_map`: the values that modules pass to each other (tensors, tuples, dictionaries,
  outputs and caches of transformers) are divided into variants and joined again.
"""

from __future__ import annotations

from torch.utils._pytree import tree_map

__all__ = ["tree_map"]
