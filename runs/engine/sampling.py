"""How completions are sampled: every setting is the recipe's or neutral, and none is the start's.

`generate` of transformers fills what a call leaves open from the model's `generation_config.json`, which may
hold a temperature, penalties, suppressed or forced tokens, lengths. A model that a run loads keeps of it
which tokens begin, end and pad a text, and nothing else. vLLM reads those that end a text, and nothing else,
where a call brings its own settings, as TRL's does.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# What leaves the model's own probabilities as they are. What has no value here is off unless it is set:
# suppressed and forced tokens, biases, guidance, watermarks, texts that end a completion.
_NEUTRAL: dict[str, Any] = {
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def neutralize(model: PreTrainedModel) -> None:
    """Leave a model only the tokens of its `generation_config.json`."""
    kept = {name: getattr(model.generation_config, name) for name in _TOKENS}
    model.generation_config = GenerationConfig(**kept)


def sampling(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float, max_new_tokens: int
) -> GenerationConfig:
    """Settings of `generate`, all of them.

    Args:
        temperature: 0 takes the likeliest token.
        max_new_tokens: the most that a completion has; less if a token ends it.
    """
    drawn = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    return GenerationConfig(
        **_NEUTRAL,
        **drawn,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        disable_compile=True,
    )


def recorded(settings: GenerationConfig) -> dict[str, Any]:
    """What `run.json` says of them; what is not named is off."""
    names = (*_NEUTRAL, "do_sample", "temperature", "top_k", "max_new_tokens", *_TOKENS)
    found = {name: getattr(settings, name) for name in sorted(names)}
    return {name: value for name, value in found.items() if value is not None}


def ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the tokenizer's and the model's, as in TRL's rollouts."""
    known = model.generation_config.eos_token_id
    known = [] if known is None else [known] if isinstance(known, int) else list(known)
    return [one for one in dict.fromkeys([tokenizer.eos_token_id, *known]) if one is not None]
