"""A run folder as a model of transformers itself: loaded by anyone, with no code of ours and no `trust_remote_code`.

Design decisions
- **Two targets, both exact.** With `partial_rotary_factor` 1.0 a TinyLlama is `LlamaForCausalLM`, weight for weight.
  With a smaller one it is `Phi3ForCausalLM`, which rotates the first part of each head too; only its projections are
  fused (`qkv_proj`, and `gate_up_proj` with the gate first). Nothing is approximated, so where the target lacks what
  the model uses (a bias, a rotary type), the export is refused.
- **Every setting is named.** The targets have defaults of their own for all of them (pad token 32000, untied heads, a
  training length of 4096), and a setting left out would take on another value.
- **Checked before it is there.** The folder is written beside its place, loaded back as a stranger would load it, and
  compared with the run folder on a real text, within the trained length and beyond. Only then it is moved to its
  place. The comparison is in float64, whatever dtype the weights are saved in: there, rounding is 1e-12 and a wrong
  function cannot hide behind it.
- **The rest of the folder comes along**: the tokenizer, under the class name that transformers 4 and 5 share, and
  `generation_config.json`, so that `generate()` draws stories with the same preset.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

from ..decoding import load_model
from ..errors import UserError, first_line


TOLERANCE = 1e-5
# Beyond so many tokens the comparison takes longer than it tells.
LONGEST_CHECK = 2048
STORY = (
    "Once upon a time there was a little girl named Lily. She had a red ball, and she loved to play with it in the "
    'garden. One day the ball rolled under a big bush. "Oh no!" said Lily. A small brown dog came by. He looked at '
    "her and wagged his tail. Then he crawled under the bush and pushed the ball out with his nose. Lily was so happy "
    "that she gave him a hug. From that day on they played together every day.\n"
)

# The fields that both targets call by our names; the rotary parameters come beside them.
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


@dataclass(frozen=True)
class Export:
    """What `export_stock` wrote, and how it was found to agree."""

    folder: Path
    architecture: str
    parameters: int
    dtype: torch.dtype
    positions: int
    """Positions at which the logits were compared."""
    difference: float
    """The largest difference between two logits there."""


def export_stock(run: str | Path, out: str | Path, to: str | None = None) -> Export:
    """Write the model in the run folder (or on the Hub) `run` to the folder `out`, as a model of transformers' own.

    Args:
        to: `"llama"` or `"phi3"`; by default the one that has the same function.

    Raises:
        UserError: where `run` is no TinyLlama model, `out` is not empty, or no such target has the same function.
    """
    out = Path(out)
    if to is not None and to not in TARGETS:
        raise UserError(f"There is no export to {to!r}; there are {', '.join(TARGETS)}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already: give a folder that is new or empty.")
    model, tokenizer = load_model(str(run))
    if model.config.model_type != TinyLlamaConfig.model_type:
        raise UserError(
            f"The model in {run} is a {model.config.model_type} and no tinyllama: transformers loads it as it is."
        )
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"The tokenizer in {run} has {len(tokenizer):,} entries and the model {model.config.vocab_size:,}: they "
            f"do not belong together."
        )
    model = model.cpu()
    stock = TARGETS[to or target_of(model.config)](model)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            folder = Path(beside) / "model"
            stock.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            difference, positions = _compare(model, tokenizer, folder)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{type(stock).__name__} does not give the logits of {run} (largest difference {difference:.1e}, "
                    f"allowed {TOLERANCE:.0e}), so nothing was written to {out}."
                )
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {first_line(error)}.") from None
    return Export(out, type(stock).__name__, stock.num_parameters(), stock.dtype, positions, difference)


def target_of(config: TinyLlamaConfig) -> str:
    """The name of the target that has the model's function with the weights as they are."""
    return "llama" if config.rope_parameters["partial_rotary_factor"] == 1.0 else "phi3"


def to_llama(model: TinyLlamaForCausalLM) -> LlamaForCausalLM:
    """The same function as a `LlamaForCausalLM`, with a copy of the weights, in their dtype and on their device.

    Raises:
        UserError: where heads are rotated in part.
    """
    settings = _settings(model)
    factor = settings["rope_parameters"].pop("partial_rotary_factor")
    if factor != 1.0:
        raise UserError(
            f"Llama rotates whole heads, and this model the first {factor:g} of each: leave out `--to llama`, and the "
            f"model becomes a Phi-3, which does the same; or train with `partial_rotary_factor: 1.0`."
        )
    settings |= {"attention_bias": model.config.attention_bias, "mlp_bias": model.config.mlp_bias}
    return _build(LlamaForCausalLM, settings, model, model.state_dict())


def to_phi3(model: TinyLlamaForCausalLM) -> Phi3ForCausalLM:
    """The same function as a `Phi3ForCausalLM`, with a copy of the weights, in their dtype and on their device.

    Raises:
        UserError: where the model has what Phi-3 has not: biases, or a rotary type other than default and longrope.
    """
    settings = _settings(model)
    rope = settings["rope_parameters"]
    partial = rope["partial_rotary_factor"] < 1.0
    instead = "Llama can, but rotates whole heads only" if partial else "leave out `--to phi3` for Llama, which can"
    biases = [name for name in ("attention_bias", "mlp_bias") if getattr(model.config, name)]
    if biases:
        raise UserError(f"Phi-3 cannot have biases, as this model has ({', '.join(biases)}): {instead}.")
    rope_type = rope.get("rope_type", "default")
    if rope_type not in PHI3_ROPE_TYPES:
        raise UserError(f"Phi-3 cannot have the rotary type of this model ({rope_type}): {instead}.")
    settings |= {
        # Where the long factors of longrope begin. Phi-3 takes it from here only, and elsewhere makes no use of it but
        # to compute a cache afresh at that length.
        "original_max_position_embeddings": rope.get(
            "original_max_position_embeddings", model.config.max_position_embeddings
        ),
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "sliding_window": None,
    }

    weights = model.state_dict()
    for i in range(model.config.num_hidden_layers):
        for block, fused, parts in (
            (f"model.layers.{i}.self_attn", "qkv_proj", ("q_proj", "k_proj", "v_proj")),
            (f"model.layers.{i}.mlp", "gate_up_proj", ("gate_proj", "up_proj")),
        ):
            weights[f"{block}.{fused}.weight"] = torch.cat([weights.pop(f"{block}.{part}.weight") for part in parts])
    return _build(Phi3ForCausalLM, settings, model, weights)


TARGETS: dict[str, Callable[[TinyLlamaForCausalLM], PreTrainedModel]] = {"llama": to_llama, "phi3": to_phi3}


def _settings(model: TinyLlamaForCausalLM) -> dict:
    rope = copy.deepcopy(dict(model.config.rope_parameters))
    return {name: getattr(model.config, name) for name in SHARED_FIELDS} | {"rope_parameters": rope}


def _build(
    model_class: type[PreTrainedModel], settings: dict, model: TinyLlamaForCausalLM, weights: dict[str, torch.Tensor]
) -> PreTrainedModel:
    try:
        config = model_class.config_class(**settings)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{model_class.__name__} cannot have the settings of this model: {reason}.") from None
    # The dtype is given here and not by `.to(dtype)` afterwards, which would round the rotary frequencies too.
    stock = model_class._from_config(config, dtype=model.dtype, attn_implementation=model.config._attn_implementation)
    stock.load_state_dict(weights, strict=True)
    stock.generation_config = copy.deepcopy(model.generation_config)
    return stock.to(model.device).train(model.training)


@torch.no_grad()
def _compare(model: TinyLlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[float, int]:
    """The largest difference of the logits of `model`, which becomes float64, to those of the model in `folder`, and
    at how many positions; infinite where the tokenizers differ, NaN where there is no number to compare."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ours = model.double().eval()
    ids = tokenizer(STORY)["input_ids"]
    if AutoTokenizer.from_pretrained(folder)(STORY)["input_ids"] != ids:
        return float("inf"), 0

    # Past the trained length, because some rotary types are another function there.
    beyond = min(model.config.max_position_embeddings + 8, LONGEST_CHECK)
    rows = [torch.tensor([row]) for row in (ids[:beyond], (ids * (beyond // len(ids) + 1))[:beyond])]
    apart = [(ours(row).logits - theirs(row).logits).abs().max() for row in rows]
    return torch.stack(apart).max().item(), sum(row.shape[1] for row in rows)
