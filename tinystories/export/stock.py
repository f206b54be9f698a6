"""Convert a TinyLlama to `LlamaForCausalLM` or `Phi3ForCausalLM`, which need no `trust_remote_code`, and back.

- Both conversions are exact. With `partial_rotary_factor` 1.0 a TinyLlama is a Llama, weight for weight. With a
  smaller factor it is a Phi-3, whose projections are fused (`qkv_proj`; `gate_up_proj`, gate first).
- Settings that the other architecture does not support are refused: biases, some rotary types, sliding windows.
- Every setting is passed, because the architectures differ in their defaults.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.phi3 import Phi3Config, Phi3ForCausalLM

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

from ..runs.download import PICKLES, SAFETENSORS, local_folder
from ..utils.errors import UserError
from ..utils.paths import require_new_folder, staged
from .verify import (
    TOLERANCE,
    Verified,
    check_difference,
    compare,
    load_complete,
    load_run,
    read_config,
)


# Fields that have the same name in all three architectures; rotary parameters are handled separately.
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "attention_dropout",
)
PHI3_ROPE_TYPES = ("default", "longrope")
Weights = dict[str, torch.Tensor]
Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class Export(Verified):
    """Result of `export_stock`."""

    folder: Path
    architecture: str
    dtype: torch.dtype


def export_stock(run: str | Path, out: str | Path, to: str | None = None) -> Export:
    """Write the TinyLlama in a run folder or on the Hub to the folder `out`, as a stock transformers architecture.

    The tokenizer and `generation_config.json` are copied, so `generate()` samples with the same preset.

    Args:
        to: `"llama"` or `"phi3"`; by default the one that computes the same function.

    Raises:
        UserError: if `run` has no TinyLlama, `out` is not empty, or the architecture does not support the model.
    """
    out = Path(out)
    if to is not None and to not in TARGETS:
        raise UserError(f"There is no export to {to!r}: choose one of {', '.join(TARGETS)}.")
    require_new_folder(out)
    model, tokenizer = load_run(run)
    stock = TARGETS[to or target_of(model.config)](model)
    with staged(out) as folder:
        stock.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        difference, positions = compare(model, tokenizer, folder)
        check_difference(difference, TOLERANCE, type(stock).__name__, run, out)
    return Export(
        parameters=stock.num_parameters(),
        positions=positions,
        difference=difference,
        folder=out,
        architecture=type(stock).__name__,
        dtype=stock.dtype,
    )


def target_of(config: PreTrainedConfig) -> str:
    """Return the architecture that computes the model's function with its weights."""
    return "llama" if config.rope_parameters["partial_rotary_factor"] == 1.0 else "phi3"


def to_llama(model: TinyLlamaForCausalLM) -> LlamaForCausalLM:
    """Convert to a `LlamaForCausalLM` with a copy of the weights, in their dtype and on their device.

    Raises:
        UserError: if only part of each head is rotated.
    """
    settings = _shared_settings(model.config)
    factor = settings["rope_parameters"].pop("partial_rotary_factor")
    if factor != 1.0:
        raise UserError(
            f"Llama rotates whole heads, but this model rotates only {factor:.0%} of each head: remove `--to llama` "
            f"to export a Phi-3, which computes the same function, or train with `partial_rotary_factor: 1.0`."
        )
    settings |= {"attention_bias": model.config.attention_bias, "mlp_bias": model.config.mlp_bias}
    return _build(LlamaForCausalLM, LlamaConfig, settings, model, model.state_dict())


def to_phi3(model: TinyLlamaForCausalLM) -> Phi3ForCausalLM:
    """Convert to a `Phi3ForCausalLM` with a copy of the weights, in their dtype and on their device.

    Raises:
        UserError: if the model has biases, or a rotary type other than default and longrope.
    """
    config = model.config
    settings = _shared_settings(config)
    rope = settings["rope_parameters"]
    rope_type = rope.get("rope_type", "default")
    unsupported = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name)]
    unsupported = [f"biases ({', '.join(unsupported)})"] if unsupported else []
    if rope_type not in PHI3_ROPE_TYPES:
        unsupported.append(f"the rotary type {rope_type}")
    if unsupported:
        partial = rope["partial_rotary_factor"] < 1.0
        advice = (
            "Llama does, but it rotates whole heads: train with `partial_rotary_factor: 1.0` to export a Llama"
            if partial
            else "Llama does: remove `--to phi3`"
        )
        raise UserError(f"Phi-3 does not support {' and '.join(unsupported)} of this model. {advice}.")
    settings |= {
        # Where longrope changes to its long factors. Phi-3 reads the length from here only.
        "original_max_position_embeddings": rope.get(
            "original_max_position_embeddings", config.max_position_embeddings
        ),
        "resid_pdrop": config.resid_pdrop,
        "embd_pdrop": config.embd_pdrop,
        "sliding_window": None,
    }
    weights = model.state_dict()
    for fused, parts in _fused_projections(config):
        weights[fused] = torch.cat([weights.pop(part) for part in parts])
    return _build(Phi3ForCausalLM, Phi3Config, settings, model, weights)


TARGETS: dict[str, Callable[[TinyLlamaForCausalLM], PreTrainedModel]] = {"llama": to_llama, "phi3": to_phi3}


def _shared_settings(config: PreTrainedConfig) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in SHARED_FIELDS if hasattr(config, name)}
    return settings | {"rope_parameters": copy.deepcopy(dict(config.rope_parameters))}


def _fused_projections(config: PreTrainedConfig) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each fused weight of Phi-3 with its parts and their numbers of rows."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        rows = {f"{attention}.{name}_proj.weight": count * head_dim for name, count in heads.items()}
        yield f"{attention}.qkv_proj.weight", rows
        rows = {f"{mlp}.{name}_proj.weight": config.intermediate_size for name in ("gate", "up")}
        yield f"{mlp}.gate_up_proj.weight", rows


def _build(
    model_class: type[Model],
    config_class: type[PreTrainedConfig],
    settings: dict[str, Any],
    source: PreTrainedModel,
    weights: Weights,
) -> Model:
    """A model with these settings and weights, in the dtype, on the device and in the mode of `source`."""
    try:
        config = config_class(**settings)
    except (StrictDataclassError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{model_class.__name__} does not support the settings of this model: {reason}.") from None
    # The dtype is given here, because `.to(dtype)` would also round the rotary frequencies.
    attention = source.config._attn_implementation
    model = model_class._from_config(config, dtype=source.dtype, attn_implementation=attention)
    model.load_state_dict(weights, strict=True)
    model.generation_config = copy.deepcopy(source.generation_config)
    return model.to(source.device).train(source.training)


def load_stock(path: str | Path) -> PreTrainedModel:
    """Load a `LlamaForCausalLM` or `Phi3ForCausalLM` on the CPU, in the dtype of its weights.

    Raises:
        UserError: if it is another architecture, quantised, incomplete, or not finite.
    """
    config = read_config(path, SOURCES, "only Llama and Phi-3 can be imported")
    if getattr(config, "quantization_config", None):
        raise UserError(f"The weights in {path} are quantised: import the original model.")
    _check_size(Path(path), config)
    return load_complete(path)


def _check_size(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse dimensions that the weight files are too small for, before memory is allocated for them."""
    if not folder.is_dir():
        return
    local_folder(folder, SAFETENSORS, PICKLES)  # refuses weight files that cannot be read
    stored = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = 2 * config.num_attention_heads * head_dim + 3 * config.intermediate_size
    # A lower bound: without keys, values and norms, and with one byte per weight.
    least = config.hidden_size * (config.vocab_size + config.num_hidden_layers * layer)
    if least > stored:
        raise UserError(
            f"{folder} is damaged or incomplete: its config.json describes more than {least:,} weights, and its "
            f"weight files have {stored:,} bytes."
        )


def from_stock(model: PreTrainedModel) -> TinyLlamaForCausalLM:
    """Convert a `LlamaForCausalLM` or `Phi3ForCausalLM` to a TinyLlama, with a copy of the weights, in their dtype.

    Raises:
        UserError: if TinyLlama does not support a setting of the model.
    """
    config = model.config
    settings, weights = _shared_settings(config), model.state_dict()
    settings["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    SOURCES[config.model_type](config, settings, weights)
    # Some configurations have -1 for a token that does not exist.
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        settings[name] = None if settings.get(name) == -1 else settings.get(name)
    settings["attention_dropout"] = settings["attention_dropout"] or 0.0
    return _build(TinyLlamaForCausalLM, TinyLlamaConfig, settings, model, weights)


def _from_llama(config: PreTrainedConfig, settings: dict[str, Any], weights: Weights) -> None:
    factor = settings["rope_parameters"]["partial_rotary_factor"]
    if factor != 1.0:
        raise UserError(f"Llama rotates whole heads, but the configuration has `partial_rotary_factor` {factor}.")
    settings |= {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def _from_phi3(config: PreTrainedConfig, settings: dict[str, Any], weights: Weights) -> None:
    if config.sliding_window is not None:
        raise UserError(
            f"TinyLlama does not support `sliding_window`, which is {config.sliding_window} in this model."
        )
    settings |= {"resid_pdrop": config.resid_pdrop, "embd_pdrop": config.embd_pdrop}
    rope = settings["rope_parameters"]
    if rope.get("rope_type") == "longrope":
        rope.setdefault("original_max_position_embeddings", config.original_max_position_embeddings)
    for fused, parts in _fused_projections(config):
        weights |= dict(zip(parts, weights.pop(fused).split(list(parts.values())), strict=True))


SOURCES: dict[str, Callable[[PreTrainedConfig, dict[str, Any], Weights], None]] = {
    "llama": _from_llama,
    "phi3": _from_phi3,
}
