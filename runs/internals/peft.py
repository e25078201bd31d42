"""What PEFT does not promise to keep, and what it is needed for.

- `tuners.lora.LoraLayer`, its `get_base_layer`, `merge` and `unmerge`: each adapter is merged by itself, and
  the model keeps its bits.
- `.base_layer.` in the name of a weight beside an adapter, and `lora_` at the beginning of the adapter's own:
  a checkpoint has the names of the start.
"""

from __future__ import annotations

from peft.tuners.lora import LoraLayer

__all__ = ["LoraLayer", "is_beside_an_adapter", "name_without_adapter"]

_BASE, _ADAPTER = ".base_layer.", "lora_"


def is_beside_an_adapter(name: str) -> bool:
    """Whether a parameter is the weight that an adapter was put beside."""
    return _BASE in name


def name_without_adapter(name: str) -> str | None:
    """The name of a weight in the model before an adapter was put into it; None for the adapter's own."""
    if any(part.startswith(_ADAPTER) for part in name.split(".")):
        return None
    return name.replace(_BASE, ".")
