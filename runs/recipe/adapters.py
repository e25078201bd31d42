"""The `adapter` of a recipe: low-rank training through PEFT, and the weights that it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from scramble.checkpoints import Checkpoint
from scramble.errors import MissingDependencyError, RecipeError, RunError, install
from scramble.runs.section import Section

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {},  # arXiv 2106.09685
    "pissa": {"init_lora_weights": "pissa"},  # 2404.02948
    "dora": {"use_dora": True},  # 2402.09353
    "rslora": {"use_rslora": True},  # 2312.03732
    "olora": {"init_lora_weights": "olora"},  # 2406.01775
}
_LARGEST_ERROR = 1e-5


class Adapter(Section):
    """Weights stay as they are, and a product of two thin matrices beside each is trained.

    PiSSA and OLoRA begin with a part of the weight itself in the product and take it off the weight.

    Attributes:
        rank: of the product.
        alpha: it is scaled by `alpha / rank`, with rslora by `alpha / sqrt(rank)`; by default the rank.
        targets: modules, such as `q_proj` or `layers.1.self_attn.q_proj`; all linear maps but the output head
            by default. The head cannot be one, nor can an embedding that it is tied to.
    """

    name: Literal["lora", "pissa", "dora", "rslora", "olora"]
    rank: PositiveInt = 32
    alpha: PositiveFloat | None = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @property
    def rewrites(self) -> bool:
        """Whether the weights beside the product are others than the start's."""
        return self.name in ("pissa", "olora")

    def check(self, start: Checkpoint) -> None:
        """Before anything is written.

        Raises:
            RecipeError: a target that the start does not have; the output head, whose weight TRL multiplies
                by without calling the module, so that an adapter in it would be left out of every loss; or an
                embedding that is tied to it: PEFT would train that side alone, and untie them.
            MissingDependencyError: PEFT is not installed.
        """
        from importlib.util import find_spec

        if find_spec("peft") is None:
            raise MissingDependencyError(f"adapters need peft: {install('runs')}")
        if self.targets is None:
            return
        model = _outline(start)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = embedding.weight is head.weight
        modules = {name: one for name, one in model.named_modules() if hasattr(one, "weight")}
        for target in self.targets:
            found = [name for name in modules if f".{name}".endswith(f".{target}")]
            if not found:
                raise RecipeError(f"adapter.targets: no module '{target}' in {start.folder}")
            if any(modules[name] is head for name in found):
                raise RecipeError(
                    f"adapter.targets: '{target}' is the output head, and TRL's losses take its weight "
                    "without calling it, so that an adapter in it would never be trained: leave it out"
                )
            if tied and any(modules[name] is embedding for name in found):
                raise RecipeError(
                    f"adapter.targets: '{target}' and the output head of {start.folder} are tied, and an "
                    "adapter on one would untie them: leave it out, or start from a copy whose head is "
                    "stored (scramble fold writes one)"
                )


class Adapted:
    """A model with an adapter put into it.

    Attributes:
        start_error: how far the merged weights are from the start before training, as `run.json` has it: the
            largest `||merged - start||_F / ||start||_F` of a tensor, and how many weights differ in bf16.

    Raises:
        RunError: it cannot be put into this model, or its start is not the start.
    """

    def __init__(self, model: PreTrainedModel, settings: Adapter, seed: int) -> None:
        import torch
        from peft import LoraConfig, inject_adapter_in_model

        from scramble.runs.internals.peft import is_beside_an_adapter

        start = {name: value.detach().clone() for name, value in model.state_dict().items()}
        targets = list(settings.targets) if settings.targets else "all-linear"
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha or settings.rank,
            target_modules=targets,
            **_OPTIONS[settings.name],
        )
        torch.manual_seed(seed)
        try:
            # Into the model and not around it: trainers take it for a plain one, and what they compare with
            # is the start and not what PiSSA leaves of it.
            self.model = inject_adapter_in_model(config, model)
        except ValueError as error:
            raise RunError(f"adapter: {' '.join(str(error).split())}") from None
        rewritten = [name for name, _ in model.named_parameters() if is_beside_an_adapter(name)]
        self.rewritten = frozenset(rewritten if settings.rewrites else ())
        self.start_error = self._compare(start)

    def merged(self) -> dict[str, torch.Tensor]:
        """The weights under the start's names, each adapter merged by PEFT in float32.

        The model itself keeps its bits. Tied weights stay one tensor.
        """
        from scramble.runs.internals.peft import LoraLayer, name_without_adapter

        layers = {name: one for name, one in self.model.named_modules() if isinstance(one, LoraLayer)}
        found = {
            whole: value.detach()
            for name, value in self.model.state_dict().items()
            if (whole := name_without_adapter(name)) is not None
        }
        for name, layer in layers.items():
            weight: Any = layer.get_base_layer().weight
            before = weight.detach().clone()
            layer.merge()
            found[f"{name}.weight"] = weight.detach().clone()
            layer.unmerge()
            weight.data.copy_(before)
        return found

    def _compare(self, start: dict[str, torch.Tensor]) -> dict[str, float]:
        merged = self.merged()
        if merged.keys() != start.keys():
            raise RunError("adapter: merged weights do not have the start's names")
        largest, changed = 0.0, 0
        for name, value in start.items():
            error = (merged[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-300)
            largest = max(largest, float(error))
            changed += int((merged[name].bfloat16() != value.bfloat16()).sum())
        if largest > _LARGEST_ERROR:
            raise RunError(f"adapter: before training, merged weights are off the start by {largest:.1e}")
        return {"largest_relative_error": largest, "changed_in_bf16": changed}


def _outline(start: Checkpoint) -> PreTrainedModel:
    """The model as transformers makes it, without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(start.folder))
