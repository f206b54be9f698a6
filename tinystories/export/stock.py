"""A run folder as a model of transformers itself: loaded by anyone, with no code of ours and no `trust_remote_code`.
And the way back: a `LlamaForCausalLM` or a `Phi3ForCausalLM` as a TinyLlama.

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
- **The way back is as exact.** A folder is read whole or not at all: transformers fills weights that are missing with
  random ones and only warns, so what it reports is refused, and so are settings that a TinyLlama has not (a sliding
  window, dropout outside attention, quantised weights).
- **The rest of the folder comes along**: the tokenizer, under the class name that transformers 4 and 5 share, and
  `generation_config.json`, so that `generate()` draws stories with the same preset.
"""

import copy
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import vocabulary_size

from ..runs.loading import load_model
from ..utils.errors import UserError, first_line


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
    check_out(out)
    model, tokenizer = load_model(str(run))
    if model.config.model_type != TinyLlamaConfig.model_type:
        raise UserError(
            f"The model in {run} is a {model.config.model_type} and no tinyllama: transformers loads it as it is."
        )
    if (entries := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise UserError(
            f"The tokenizer in {run} has {entries:,} entries and the model {model.config.vocab_size:,}: they "
            f"do not belong together."
        )
    model = model.cpu()
    stock = TARGETS[to or target_of(model.config)](model)

    with written_beside(out) as folder:
        stock.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        difference, positions = compare(model, tokenizer, folder)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{type(stock).__name__} does not give the logits of {run} (largest difference {difference:.1e}, "
                f"allowed {TOLERANCE:.0e}), so nothing was written to {out}."
            )
    return Export(out, type(stock).__name__, stock.num_parameters(), stock.dtype, positions, difference)


def check_out(out: Path) -> None:
    """Refuse a folder to write to that holds something already, with a `UserError`."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already: give a folder that is new or empty.")


@contextmanager
def written_beside(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which becomes `out` if nothing is raised, and is gone otherwise.

    Raises:
        UserError: where the system does not allow it.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            folder = Path(beside) / "model"
            yield folder
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {first_line(error)}.") from None


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


def load_stock(path: str | Path) -> PreTrainedModel:
    """The `LlamaForCausalLM` or `Phi3ForCausalLM` in a folder or on the Hub, in the dtype of its weights, on the CPU.

    Raises:
        UserError: where it is another model, or its weights are not all there and finite.
    """
    path = str(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, StrictDataclassError) as error:
        raise UserError(f"The configuration in {path} cannot be read: {first_line(error)}.") from None
    if config.model_type not in SOURCES:
        raise UserError(f"The model in {path} is a {config.model_type}; only Llama and Phi-3 can become a TinyLlama.")
    if getattr(config, "quantization_config", None):
        raise UserError(f"The weights in {path} are quantised: import the model that they were made from.")
    _check_size(Path(path), config)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"The model in {path} cannot be loaded: {first_line(error)}.") from None
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(trouble):
            names = ", ".join(str(name) for name in sorted(report[trouble], key=str)[:3])
            raise UserError(f"The weights in {path} do not fit its config.json, {trouble.replace('_', ' ')}: {names}.")
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{path} is damaged: {name} holds numbers that are not finite.")
    return model.eval()


def _check_size(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse dimensions for which the weight files are too small, before memory is taken for them."""
    if not folder.is_dir():
        return
    stored = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = 2 * config.num_attention_heads * head_dim + 3 * config.intermediate_size
    # Keys, values and norms come on top; no number takes less than a byte.
    least = config.hidden_size * (config.vocab_size + config.num_hidden_layers * layer)
    if least > stored:
        raise UserError(
            f"{folder} is damaged or incomplete: its config.json describes more than {least:,} weights, and its "
            f"weight files have {stored:,} bytes."
        )


def from_stock(model: PreTrainedModel) -> TinyLlamaForCausalLM:
    """The same function as a TinyLlama, with a copy of the weights, in their dtype and on their device.

    Args:
        model: a `LlamaForCausalLM` or a `Phi3ForCausalLM`.

    Raises:
        UserError: where the model has what a TinyLlama has not.
    """
    config = model.config
    settings = {name: getattr(config, name) for name in SHARED_FIELDS if hasattr(config, name)}
    rope = copy.deepcopy(dict(config.rope_parameters))
    weights = model.state_dict()
    SOURCES[config.model_type](config, settings, rope, weights)
    # Some configurations say -1 where there is no such token.
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        settings[name] = None if settings.get(name) == -1 else settings.get(name)
    settings["attention_dropout"] = settings["attention_dropout"] or 0.0
    try:
        tiny_config = TinyLlamaConfig(**settings, rope_parameters=rope)
    except ValueError as error:
        raise UserError(f"A TinyLlama cannot have the settings of this model: {first_line(error)}.") from None
    tiny = TinyLlamaForCausalLM._from_config(
        tiny_config, dtype=model.dtype, attn_implementation=config._attn_implementation
    )
    tiny.load_state_dict(weights, strict=True)
    tiny.generation_config = copy.deepcopy(model.generation_config)
    return tiny.to(model.device).train(model.training)


def _from_llama(config: PreTrainedConfig, settings: dict, rope: dict, weights: dict[str, torch.Tensor]) -> None:
    factor = rope.setdefault("partial_rotary_factor", 1.0)
    if factor != 1.0:
        raise UserError(f"Llama rotates whole heads, but the configuration says `partial_rotary_factor` {factor}.")
    settings |= {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def _from_phi3(config: PreTrainedConfig, settings: dict, rope: dict, weights: dict[str, torch.Tensor]) -> None:
    if config.sliding_window is not None:
        raise UserError(f"A TinyLlama sees all that came before, and this model the last {config.sliding_window:,}.")
    for name in ("resid_pdrop", "embd_pdrop"):
        if getattr(config, name):
            raise UserError(f"A TinyLlama has no `{name}`, and this model has {getattr(config, name)}.")
    rope.setdefault("partial_rotary_factor", 1.0)
    if rope.get("rope_type") == "longrope":
        rope.setdefault("original_max_position_embeddings", config.original_max_position_embeddings)

    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = {
        "q_proj": config.num_attention_heads * head_dim,
        "k_proj": config.num_key_value_heads * head_dim,
        "v_proj": config.num_key_value_heads * head_dim,
    }
    for i in range(config.num_hidden_layers):
        for block, fused, parts in (
            (f"model.layers.{i}.self_attn", "qkv_proj", rows),
            (
                f"model.layers.{i}.mlp",
                "gate_up_proj",
                dict.fromkeys(("gate_proj", "up_proj"), config.intermediate_size),
            ),
        ):
            pieces = weights.pop(f"{block}.{fused}.weight").split(list(parts.values()))
            weights |= {f"{block}.{part}.weight": piece for part, piece in zip(parts, pieces, strict=True)}


SOURCES: dict[str, Callable] = {"llama": _from_llama, "phi3": _from_phi3}


@torch.no_grad()
def compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[float, int]:
    """The largest difference of the logits of `model`, which becomes float64, to those of the model in `folder`, and
    at how many positions; infinite where the tokenizers differ, NaN where there is no number to compare."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ours = model.double().eval()
    ids = tokenizer(STORY, verbose=False)["input_ids"]
    if AutoTokenizer.from_pretrained(folder)(STORY, verbose=False)["input_ids"] != ids:
        return float("inf"), 0

    # Past the trained length, because some rotary types are another function there.
    beyond = min(model.config.max_position_embeddings + 8, LONGEST_CHECK)
    rows = [torch.tensor([row]) for row in (ids[:beyond], (ids * (beyond // len(ids) + 1))[:beyond])]
    apart = [(ours(row).logits - theirs(row).logits).abs().max() for row in rows]
    return torch.stack(apart).max().item(), sum(row.shape[1] for row in rows)
