"""Generate one story with a model of transformers: sampling presets, streaming, native decoding where possible."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

from ..utils.errors import UserError
from ..utils.evaluation_mode import evaluation_mode
from .native import native_decoding
from .presets import GREEDY, MIN_TEMPERATURE, PRESETS, check_sampling, resolve_max_new_tokens
from .prompts import decode, encode_prompt, instruction


CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")


def preset_config(preset: str, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """The `GenerationConfig` of a preset or of "greedy"."""
    return GenerationConfig(
        do_sample=preset != GREEDY,
        **PRESETS.get(preset, {}),
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def default_new_tokens(context: int) -> int:
    """`max_new_tokens` of a saved model: three quarters of its context, so that a long prompt fits, too."""
    return context * 3 // 4


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a story: that of the tokenizer and those of the model's generation config."""
    own = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(ids - {None})


def context_length(model: PreTrainedModel) -> int | None:
    """Context length in tokens, from the configuration of the model; None if it has none."""
    config = model.config.get_text_config()
    limits = (getattr(config, name, None) for name in CONTEXT_FIELDS)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    for module in model.modules():
        positions = getattr(module, "position_embeddings", None)
        if limit and isinstance(positions, torch.nn.Embedding) and positions.padding_idx is not None:
            return limit - positions.padding_idx - 1  # RoBERTa numbers positions from the pad token on
    return limit


def sampling_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    preset: str | None,
    sampling: Mapping[str, float],
    max_new_tokens: int,
) -> GenerationConfig:
    """The `GenerationConfig` of a preset, by default the model's own, with overrides; see [`generate_story`]."""
    if preset is None and model.generation_config.do_sample:
        config = copy.deepcopy(model.generation_config)
        config.max_length, config.max_new_tokens = None, max_new_tokens
    else:
        config = preset_config(preset or "balanced", tokenizer, max_new_tokens)
        config.eos_token_id = eos_token_ids(model, tokenizer) or None
    for name, value in sampling.items():
        setattr(config, name, value)
    if config.do_sample and config.temperature is not None and config.temperature < MIN_TEMPERATURE:
        config.do_sample, config.temperature, config.top_k, config.top_p = False, 1.0, 50, 1.0
    return config


@contextmanager
def temporary_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Within the block: evaluation mode, native decoding where possible, and `config` as the model's own config.

    `generate` takes settings that are not in its config from the model's own, which would add a repetition penalty to
    greedy decoding.
    """
    own = model.generation_config
    model.generation_config = config
    try:
        with evaluation_mode(model), native_decoding(model):
            yield
    finally:
        model.generation_config = own


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
    best_of: int = 1,
    fields: Mapping[str, str] | None = None,
) -> str:
    """Generate a completion of `prompt` and return both.

    Args:
        model: any causal language model, such as that of `load_model`.
        tokenizer: of the model.
        prompt: the beginning of the story.
        preset: sampling settings by name; by default those of the model's `generation_config.json`, or "balanced"
            if it does not sample.
        sampling: overrides of `temperature` (0 is greedy decoding), `top_k`, `top_p` and `repetition_penalty`.
        max_new_tokens: by default the remaining context length.
        seed: the same seed generates the same text on the same machine.
        stream: print the text while it is generated.
        best_of: with more than 1, generate that many completions and return the one with the fewest faults; see
            [`best_stories`].
        fields: of the template that the model was trained with, such as `{"words": "dragon, key, rain"}`. The
            filled-in template is put in front of the prompt, which may be empty, and is neither printed nor returned.

    Raises:
        UserError: if the model lacks a field, the prompt fills the context, `max_new_tokens` exceeds the remaining
            context length or is missing for a model without a context length, a setting is out of range, or `best_of`
            is combined with `stream` or greedy decoding.
    """
    sampling = sampling or {}
    check_sampling(preset, sampling)
    if best_of != 1:
        from .best_of import best_stories  # uses this module

        if stream:
            raise UserError("A story that is chosen with best_of cannot be streamed: leave out one of the two.")
        best = best_stories(
            model,
            tokenizer,
            prompt,
            best_of=best_of,
            preset=preset,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            seed=seed,
            fields=fields,
            progress=False,
        )
        return best.stories[0].text
    front = instruction(tokenizer, fields or {})
    ids = torch.tensor([encode_prompt(tokenizer, front + prompt)], device=model.device)
    max_new_tokens = resolve_max_new_tokens(context_length(model), ids.shape[1], max_new_tokens)
    config = sampling_config(model, tokenizer, preset, sampling, max_new_tokens)
    if seed is not None:
        set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_prompt=bool(front), skip_special_tokens=True) if stream else None
    if stream and front:
        print(prompt, end="", flush=True)
    with temporary_generation_config(model, config):
        output = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer
        )
    if front:
        return prompt + decode(tokenizer, output[0].tolist())[len(decode(tokenizer, ids[0].tolist())) :]
    return decode(tokenizer, output[0].tolist())
