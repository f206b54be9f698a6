"""How a story is told: loading a model, named decoding presets, and streaming a story to the terminal."""

import copy
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
    set_seed,
)

from tokenization import PreTrainedTokenizerFast

from .errors import UserError, first_line


PRESETS: dict[str, dict[str, float]] = {
    "balanced": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
    "conservative": {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    "creative": {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "repetition_penalty": 1.1},
    # A penalty on repetition also falls on a character's name, and the smallest models then take another.
    "plain": {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.0},
}


def load_model(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from a run folder or the Hub, ready to tell stories.

    Raises:
        UserError: where there is no such model.
    """
    import modeling_tinyllama  # noqa: F401  registers the architecture

    if not Path(path).exists() and path.count("/") != 1:
        raise UserError(f"There is no run folder {path}; `make quickstart` makes runs/quickstart.")
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise UserError(f"{path} is not a run folder: it has no config.json. Give the folder that training wrote.")
    tokenizer = load_tokenizer(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"The model in {path} cannot be loaded: {first_line(error)}.") from None
    return model.to(_device()).eval(), tokenizer


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub, of a class that saves what every tool can read.

    Raises:
        UserError: where there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if type(tokenizer) is transformers.PreTrainedTokenizerFast:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    except (OSError, ValueError) as error:
        where = f"The tokenizer in {path} cannot be loaded"
        if not Path(path).exists():
            where = f"There is no folder {path}, and no tokenizer of that name can be had from the Hub"
        raise UserError(f"{where}: {first_line(error)}.") from None
    return tokenizer


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_preset(preset: str) -> None:
    """Refuse a preset that there is not, with a `UserError` that names those there are."""
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")


def preset_config(preset: str, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """The `GenerationConfig` of a preset. A story ends by itself or after `max_new_tokens`."""
    return GenerationConfig(
        do_sample=True,
        **PRESETS[preset],
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tell_story(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    preset: str | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    stream: bool = False,
) -> str:
    """Continue `prompt` and return the whole story; with `stream`, print it as it is written.

    Args:
        preset: how it is told; by default as the model's own `generation_config.json` says, or "balanced" where that
            does not sample.
        max_new_tokens: at most so many; by default as many as the context leaves.
        seed: the same seed tells the same story on the same machine.

    Raises:
        UserError: where the prompt leaves no room in the context, or `max_new_tokens` asks for more than there is.
    """
    context = model.config.max_position_embeddings
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False, verbose=False).to(model.device)
    used = inputs["input_ids"].shape[1]
    room = context - used
    if room < 1:
        raise UserError(f"The prompt is {used} tokens long, but the model's context is {context}: shorten the prompt.")
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"The context is {context} tokens and the prompt takes {used}: --max-new-tokens can be at most {room}."
        )
    if preset is None and model.generation_config.do_sample:
        config = copy.deepcopy(model.generation_config)
        config.max_length, config.max_new_tokens = None, max_new_tokens or room
    else:
        config = preset_config(preset or "balanced", tokenizer, max_new_tokens or room)
    if seed is not None:
        set_seed(seed)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if stream else None
    was_training = model.training
    model.eval()
    output = model.generate(**inputs, generation_config=config, streamer=streamer)
    model.train(was_training)
    return tokenizer.decode(output[0], skip_special_tokens=True)
