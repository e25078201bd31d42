"""What the tensors of a checkpoint are whose family has no table: by transformers' own class, else by name.

Nothing here is asked about a checkpoint that a table describes: there the table alone says what a tensor is.
transformers' class says which tensors are buffers and which modules are embeddings, norms and linear maps. It
is built without memory, and only for checkpoints that no table describes. Names in a checkpoint may have
another prefix than in the class, so that a name's longest known end counts. What the class does not know, and
every tensor of an architecture that transformers does not have, is judged by its name and shape.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from scramble.architecture.family import Config, Role

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias|causal_mask|attn_mask|position_ids|num_batches_tracked)$")
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.bias$")
_NORM = re.compile(r"norm|^ln_|^ln$")
_EMBEDDINGS = {
    *("embed_tokens", "wte", "wpe", "embed_in", "embed_positions", "word_embeddings", "position_embeddings"),
    *(
        "position_embedding",
        "token_type_embeddings",
        "pos_embed",
        "class_embedding",
        "shared",
        "tok_embeddings",
    ),
    *("lm_head", "embed_out", "output_projection"),
}
# Beside a weight in FP8, MXFP4, GPTQ, AWQ, compressed-tensors or bitsandbytes.
_QUANTISED = ("", ".weight", ".qweight", ".weight_packed", "_blocks")
_SCALES = re.compile(
    r"^(?P<whole>.+?)(_scale_inv|_scale(_2)?|_scales|\.scales|\.(weight|input)_scale|\.weight_zero_point"
    r"|\.(nested_)?(absmax|quant_map))$"
)
_HEAD = re.compile(r"(?:.*\.)?(?:lm_head|embed_out)\.weight")
_TIED_TO = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|embed_in)\.weight")
# MTP layers hold copies of both.
_IN_A_LAYER = re.compile(r".*\.\d+\..*")
# An end of a name with fewer parts is shared by tensors of other kinds.
_LEAST_PARTS = 3
Shape = tuple[int, ...]


def roles(config: Config, shapes: Mapping[str, Shape]) -> dict[str, Role]:
    """Name to role."""
    known = _known(config)
    return {name: _lookup(known, name) or _by_name(name, shape) for name, shape in shapes.items()}


def head_and_embedding(names: Iterable[str]) -> tuple[str, str] | None:
    """The output head and the embedding that it may be tied to, among names of tensors; None without both."""
    outside = [name for name in names if not _IN_A_LAYER.fullmatch(name)]
    heads, embeddings = (
        [name for name in outside if pattern.fullmatch(name)] for pattern in (_HEAD, _TIED_TO)
    )
    return (heads[0], embeddings[0]) if len(heads) == len(embeddings) == 1 else None


def scales(names: Iterable[str], opaque: Collection[str]) -> dict[str, str]:
    """Scales of quantised weights, to the tensor of `opaque` (no plain floats) that they belong to."""
    matches = {name: match["whole"] for name in names if (match := _SCALES.search(name))}
    return {
        name: whole + part for name, whole in matches.items() for part in _QUANTISED if whole + part in opaque
    }


def _by_name(name: str, shape: Shape) -> Role:
    parts = [part for part in name.split(".") if not part.isdigit()] or [name]
    last = parts[-1]
    module = parts[-2] if len(parts) > 1 and last in ("weight", "bias") else last
    if _BUFFERS.search(name) or (_MASK.search(name) and len(shape) == 4 and shape[:2] == (1, 1)):
        return "buffer"
    if _NORM.search(module):
        return "norm"
    if module in _EMBEDDINGS:
        return "embedding"
    if last.endswith("bias"):
        return "bias"
    stack = len(shape) == 3 and "experts" in parts
    return "matrix" if len(shape) == 2 or stack else "bias"


def _lookup(known: Mapping[str, Role | None], name: str) -> Role | None:
    return next((found for end in _ends(name) if (found := known.get(end))), None)


def _ends(name: str) -> Iterator[str]:
    """A name and its ends, the longest first."""
    yield name
    parts = name.split(".")
    for start in range(1, len(parts) - _LEAST_PARTS + 1):
        yield ".".join(parts[start:])


def _known(config: Config) -> dict[str, Role | None]:
    """Names in transformers' class and their ends, to roles; None where an end is of several kinds."""
    model = _model(config)
    found: dict[str, Role | None] = {}
    for name, role in _named_roles(model) if model is not None else ():
        for end in _ends(name):
            found[end] = role if found.get(end, role) == role else None
    return found


def _named_roles(model: PreTrainedModel) -> Iterator[tuple[str, Role | None]]:
    head, saved = model.get_output_embeddings(), model.state_dict().keys()
    for prefix, module in model.named_modules():
        path = f"{prefix}." if prefix else ""
        for name, tensor in module.named_parameters(recurse=False):
            yield path + name, _role_in(module, name, tensor, module is head)
        for name, _ in module.named_buffers(recurse=False):
            # What the class saves is a part of the model's state, as the bias that balances experts.
            yield path + name, None if path + name in saved else "buffer"


def _role_in(module: torch.nn.Module, name: str, tensor: torch.Tensor, head: bool) -> Role | None:
    import torch

    from scramble.internals.transformers import Conv1D

    if not tensor.requires_grad:
        return "buffer"  # constants, as sinusoids that stand for positions
    if head or isinstance(module, torch.nn.Embedding):
        return "embedding"
    if "Norm" in type(module).__name__:
        return "norm"
    if isinstance(module, torch.nn.Linear | Conv1D) and name == "weight":
        return "matrix"
    return None


def _model(config: Config) -> PreTrainedModel | None:
    """transformers' own class for a config, without memory; no code of a checkpoint's own is run."""
    try:
        import torch
        import transformers
        from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

        from scramble.internals.transformers import without_weights

        made = CONFIG_MAPPING[str(config["model_type"])].from_dict(dict(config))
        named = [getattr(transformers, str(name), None) for name in config.get("architectures") or ()]
        kinds = [kind for kind in named if kind is not None]
        kinds += [
            mapping[type(made)]
            for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING)
            if type(made) in mapping
        ]
        with torch.device("meta"):
            model = without_weights(kinds[0], made)
    except Exception:  # not in transformers, or a config that its class refuses: names decide
        return None
    return model
