"""Published settings under a name. Keys that a recipe gives itself override them."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # arXiv 2511.08567, C.1: DAPO without a KL term; batches of 256 prompts in mini-batches of 64; 12 to 16
    # rollouts a prompt; reward 1 and -1; AdamW. Clip ranges are DAPO's own (arXiv 2503.14476, 4.1). The
    # longest answer is open there: 8192 tokens is ours.
    "paper": {
        "algorithm": {
            "name": "dapo",
            "prompts": 256,
            "generations": 16,
            "mini_batches": 4,
            "max_new_tokens": 8192,
            "right": 1.0,
            "wrong": -1.0,
            "beta": 0.0,
            "epsilon": 0.2,
            "epsilon_high": 0.28,
            "overlong_buffer": 1024,
            "overlong_factor": 1.0,
        },
        "optimizer": {"name": "adamw", "learning_rate": 1e-6, "betas": [0.9, 0.999]},
    },
}


def with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a recipe with its `preset` written out, and the key itself gone.

    A section for which the recipe names another algorithm or optimizer than the preset is the recipe's alone.

    Raises:
        ValueError: no such preset.
    """
    content = dict(content)
    name = content.pop("preset", None)
    if name is None:
        return content
    if name not in PRESETS:
        raise ValueError(f"no preset '{name}'; there is {', '.join(PRESETS)}")
    for section, values in PRESETS[name].items():
        own = content.get(section, {})
        if isinstance(own, dict) and own.get("name", values["name"]) == values["name"]:
            content[section] = values | own
    return content
