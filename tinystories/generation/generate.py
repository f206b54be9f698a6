"""How a story is told: loading a model, named decoding presets, streaming to the terminal, and mending a story's look.

`storytelling.py` tells many stories at once, for evaluation.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
    set_seed,
)

from .native import native_decoding
from .presets import GREEDY, MIN_TEMPERATURE, PRESETS, check_sampling, resolve_max_new_tokens
from .prompts import encode_prompt


def preset_config(preset: str, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """The `GenerationConfig` of a preset or of "greedy". A story ends by itself or after `max_new_tokens`."""
    return GenerationConfig(
        do_sample=preset != GREEDY,
        **PRESETS.get(preset, {}),
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a story: the tokenizer's, and those of the model's own generation config."""
    of_model = model.generation_config.eos_token_id
    candidates = [tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])]
    return sorted({index for index in candidates if index is not None})


@contextmanager
def temporary_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Within the block the model is in evaluation mode, fast where it can be, and `config` is its own; afterwards all
    is as it was.

    `generate` fills what its config leaves open from the model's own: a greedy story would take its penalty.
    """
    modes = [(module, module.training) for module in model.modules()]
    own = model.generation_config
    model.eval()
    model.generation_config = config
    try:
        with native_decoding(model):
            yield
    finally:
        model.generation_config = own
        for module, training in modes:
            module.training = training


def generate_story(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    preset: str | None = None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> str:
    """Generate a completion of `prompt` and return both; with `stream`, print the text as it is generated.

    Args:
        preset: sampling settings by name; by default those of the model's own `generation_config.json`, or "balanced"
            where that does not sample.
        sampling: what replaces some of them: `temperature` (0 is greedy decoding), `top_k`, `top_p` and
            `repetition_penalty`.
        max_new_tokens: at most so many; by default the remaining context length.
        seed: the same seed generates the same text on the same machine.

    Raises:
        UserError: where the prompt leaves no room in the context, `max_new_tokens` asks for more than there is, or a
            setting is out of range.
    """
    check_sampling(preset, sampling or {})
    ids = torch.tensor([encode_prompt(tokenizer, prompt)], device=model.device)
    room = resolve_max_new_tokens(model.config.max_position_embeddings, ids.shape[1], max_new_tokens)
    if preset is None and model.generation_config.do_sample:
        config = copy.deepcopy(model.generation_config)
        config.max_length, config.max_new_tokens = None, room
    else:
        config = preset_config(preset or "balanced", tokenizer, room)
        config.eos_token_id = eos_token_ids(model, tokenizer) or None
    for name, value in (sampling or {}).items():
        setattr(config, name, value)
    if config.do_sample and config.temperature is not None and config.temperature < MIN_TEMPERATURE:
        config.do_sample, config.temperature, config.top_k, config.top_p = False, 1.0, 50, 1.0
    if seed is not None:
        set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if stream else None
    with temporary_generation_config(model, config):
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer)
    return tokenizer.decode(output[0], skip_special_tokens=True)
