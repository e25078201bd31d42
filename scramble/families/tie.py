"""Whether a model's output head is its embedding: the one answer that everybody asks for."""

from __future__ import annotations

import copy

from scramble.architecture.family import Config
from scramble.errors import CheckpointError, one_line
from scramble.families import FAMILIES


def stated(config: Config) -> bool | None:
    """What a `config.json` says, by its family's default where it does not; None without a table too."""
    family = config.get("model_type")
    if isinstance(family, str) and family in FAMILIES:
        return FAMILIES[family].is_tied(config)
    return bool(config["tie_word_embeddings"]) if "tie_word_embeddings" in config else None


def is_tied(config: Config) -> bool:
    """Whether a model of this `config.json` ties its output head to its embedding.

    A family without a table has its default from transformers' config class, whose import takes seconds; what
    that does not know is not tied.

    Raises:
        CheckpointError: transformers' config class refuses this config.
    """
    if (said := stated(config)) is not None:
        return said
    from transformers import CONFIG_MAPPING

    family = config.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        return False
    try:
        whole = CONFIG_MAPPING[family].from_dict(copy.deepcopy(dict(config)))
    except Exception as error:  # whatever a config can make transformers raise
        raise CheckpointError(
            "config.json does not say whether the output head is tied (tie_word_embeddings), and "
            f"transformers refuses it: {one_line(error)}"
        ) from error
    return bool(getattr(whole, "tie_word_embeddings", False))
