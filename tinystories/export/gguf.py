"""Write a model to a GGUF file for llama.cpp.

- A model that rotates whole heads becomes a `llama`, others a `phi3`, which rotates the first `rope.dimension_count`
  dimensions of each head. Models that llama.cpp cannot compute are refused.
- llama.cpp's `llama` rotates neighbouring pairs (0, 1), (2, 3) and transformers (0, n/2), (1, n/2 + 1), so the rows of
  the query and key projections are reordered. Its `phi3` has transformers' order.
- The file is read back with transformers, which undoes the reordering: each weight must be the rounded original, and
  the logits must be those of a model with these weights.
- No chat template is written: with one, llama.cpp's `llama-completion` treats the prompt as a chat.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from yaml import YAMLError

from ..generation.presets import GGUF_DTYPES
from ..utils.errors import UserError, install_command
from ..utils.paths import staged
from .stock import export_stock
from .verify import LONGEST_CHECK, STORY, TOLERANCE, Verified, check_difference


try:
    import gguf

    from .gguf_vocabulary import compare_tokens, to_vocabulary, write_vocabulary
except ModuleNotFoundError:
    raise UserError(f"GGUF export needs an additional package: {install_command('export')}.") from None

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


@dataclass(frozen=True)
class GgufExport(Verified):
    """Result of `export_gguf`.

    Attributes:
        architecture: its name in llama.cpp.
        bytes: size of the file.
        not_quantized: number of matrices stored as f16, because their row length is not a multiple of the block size.
        rounding: largest change of a logit by rounding the weights.
        stories: number of stories whose token ids were compared.
    """

    file: Path
    architecture: str
    dtype: str
    bytes: int
    not_quantized: int
    rounding: float
    stories: int


def export_gguf(run: str | Path, out: str | Path, dtype: str = "f16") -> GgufExport:
    """Write the model in a run folder or on the Hub to the new file `out`.

    Args:
        out: file name that ends in `.gguf`.
        dtype: of the matrices, one of `GGUF_DTYPES`; norms are stored in float32.

    Raises:
        UserError: if llama.cpp does not support the model or its tokenizer, or `out` exists.
    """
    out = Path(out)
    if dtype not in GGUF_DTYPES:
        raise UserError(f"GGUF export does not support {dtype!r}: choose one of {', '.join(GGUF_DTYPES)}.")
    if out.suffix != ".gguf":
        raise UserError(f"A GGUF export is one file: choose a name that ends in .gguf, such as {out}.gguf.")
    if out.exists():
        raise UserError(f"{out} already exists: choose another file name.")
    with staged(out) as file:
        stock = file.parent / "stock"
        export_stock(run, stock)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(stock).eval(), AutoTokenizer.from_pretrained(stock)
        _check_config(model.config)
        kinds = _write(file, model, tokenizer, dtype, run)
        difference, rounding, positions = _compare(file, model, tokenizer, kinds)
        check_difference(difference, TOLERANCE, "The GGUF file", run, out)
        stories = compare_tokens(file, tokenizer)
        size = file.stat().st_size
    return GgufExport(
        parameters=model.num_parameters(),
        positions=positions,
        difference=difference,
        file=out,
        architecture=model.config.model_type,
        dtype=dtype,
        bytes=size,
        not_quantized=sum(dtype == "q8_0" and kind == "F16" for kind in kinds.values()),
        rounding=rounding,
        stories=stories,
    )


def _check_config(config: PreTrainedConfig) -> None:
    biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    rope_type = config.rope_parameters.get("rope_type", "default")
    width = config.num_attention_heads * config.head_dim
    reason = None
    if biases:
        reason = f"biases ({', '.join(biases)}) are not supported"
    elif rope_type != "default":
        reason = f"the rotary type {rope_type} is not supported"
    elif config.hidden_act not in ("silu", "swish"):
        reason = f"the activation must be silu, but is {config.hidden_act}"
    elif config.model_type == "phi3" and width != config.hidden_size:
        reason = (
            f"if only part of each head is rotated, num_attention_heads * head_dim ({width:,}) must equal hidden_size "
            f"({config.hidden_size:,})"
        )
    if reason:
        raise UserError(f"This model cannot be exported to GGUF: {reason}.")


def _write(
    file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, run: str | Path
) -> dict[str, str]:
    """Write the file and return the type of each weight by transformers' names."""
    config = model.config
    vocabulary = to_vocabulary(tokenizer, config.vocab_size)
    writer = gguf.GGUFWriter(file, config.model_type)
    writer.add_type(gguf.GGUFType.MODEL)
    _write_name(writer, run)
    writer.add_size_label(gguf.size_label(model.num_parameters(), 0, 0, 0))
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0)))
    if config.model_type == "phi3":
        writer.add_sliding_window(0)  # older versions of llama.cpp use Phi-3's own window if it is missing

    write_vocabulary(writer, vocabulary, tokenizer, _eos_token_ids(model, tokenizer))
    _write_sampling(writer, model)
    kinds = _write_tensors(writer, model, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kinds


def _write_name(writer: gguf.GGUFWriter, run: str | Path) -> None:
    """Write the name of the model, and its licence if its card has one."""
    name = Path(run).resolve().name if Path(run).exists() else str(run).split("/")[-1]
    # llama.cpp recognises Microsoft's model by these spellings, and fails without the tokens of that model.
    writer.add_name(re.sub("(?i)phi-?3", "Phi 3", name))
    card = Path(run) / "README.md"
    if card.is_file():
        try:
            licence = ModelCard.load(card).data.get("license")
        except (ValueError, YAMLError):
            return
        if isinstance(licence, str):
            writer.add_license(licence)


def _write_tensors(writer: gguf.GGUFWriter, model: PreTrainedModel, dtype: str) -> dict[str, str]:
    config = model.config
    architecture = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = model.state_dict()
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    kinds = {}
    for name, weight in weights.items():
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _halves_to_neighbours(weight, config.head_dim)
        kind = "F32" if weight.ndim == 1 else dtype.upper()
        if kind == "Q8_0" and weight.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0]:
            kind = "F16"
        quantization = gguf.GGMLQuantizationType[kind]
        with np.errstate(over="ignore", invalid="ignore"):
            data = gguf.quants.quantize(weight.float().contiguous().numpy(), quantization)
        if kind in ("F16", "Q8_0") and not np.isfinite(gguf.quants.dequantize(data, quantization)).all():
            raise UserError(f"{name} has values that are too large for {kind.lower()}: choose --dtype bf16 or f32.")
        stem = name.removesuffix(".weight")
        writer.add_tensor(f"{names[stem]}.weight", data, raw_dtype=quantization)
        kinds[name] = kind
    return kinds


def _halves_to_neighbours(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Interleave the two halves of each head's rows in a weight `[heads * head_dim, hidden]`."""
    heads = weight.view(-1, 2, head_dim // 2, weight.shape[-1])
    return heads.transpose(1, 2).reshape(weight.shape)


def _eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that `generate()` stops at, the tokenizer's own first."""
    ids = model.generation_config.eos_token_id
    ids = model.config.eos_token_id if ids is None else ids
    ids = ids if isinstance(ids, list) else [ids]
    ids = sorted({i for i in ids if i is not None}, key=lambda i: (i != tokenizer.eos_token_id, i))
    if not 1 <= len(ids) <= 3:
        raise UserError(f"llama.cpp supports one to three EOS tokens, but this model has {len(ids)}.")
    return ids


def _write_sampling(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    """Write `generation_config.json` as llama.cpp's defaults, in transformers' order of sampling steps."""
    config = model.generation_config
    writer.add_sampling_sequence("penalties;temperature;top_k;top_p")
    writer.add_sampling_penalty_last_n(model.config.max_position_embeddings)
    writer.add_sampling_penalty_repeat(config.repetition_penalty or 1.0)
    # Unset values have `generate()`'s defaults; temperature 0 is greedy.
    writer.add_sampling_temp((config.temperature or 1.0) if config.do_sample else 0.0)
    writer.add_sampling_top_k(50 if config.top_k is None else config.top_k)
    writer.add_sampling_top_p(config.top_p or 1.0)


@torch.no_grad()
def _compare(
    file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kinds: dict[str, str]
) -> tuple[float, float, int]:
    """Compare the file with `model`, which becomes float64 with the file's rounded weights.

    Returns:
        The largest logit difference to the model with rounded weights, the largest change by rounding, and the number
        of positions.

    Raises:
        UserError: if a weight is not the rounded original.
    """
    written = _read_model(file)
    weights, rounded = model.state_dict(), written.state_dict()
    for name, kind in kinds.items():
        if not _is_rounded(weights[name].float(), rounded[name].float(), kind):
            raise UserError(
                f"{name} in the GGUF file differs from the weight of the model, so nothing was written: please report "
                f"this."
            )

    ids = tokenizer(STORY, verbose=False)["input_ids"]
    length = min(model.config.max_position_embeddings, LONGEST_CHECK)
    row = torch.tensor([(ids * (length // len(ids) + 1))[:length]])
    model = model.double()
    exact = model(row).logits
    model.load_state_dict(rounded)
    expected = model(row).logits
    return (written(row).logits - expected).abs().max().item(), (expected - exact).abs().max().item(), length


def _read_model(file: Path) -> PreTrainedModel:
    """The model in the file as transformers reads it, in float64."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if config.model_type == "phi3":
        # transformers does not read the fraction of each head that is rotated.
        fields = gguf.GGUFReader(file).fields
        width, rotated = (
            fields[f"phi3.{name}"].contents() for name in ("attention.key_length", "rope.dimension_count")
        )
        config.rope_parameters["partial_rotary_factor"] = rotated / width
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, config=config, dtype=torch.float32)
    return model.double().eval()


def _is_rounded(weight: torch.Tensor, stored: torch.Tensor, kind: str) -> bool:
    if kind == "Q8_0":
        blocks = weight.view(-1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0])
        # Half a step, and the rounding of the scale to float16: 11 bits, or 2**-25 if it is subnormal.
        step = blocks.abs().amax(-1, keepdim=True) / 127
        allowed = step * (0.5 + 127 * 2**-11) + 127 * 2**-25
        return bool(((stored.view_as(blocks) - blocks).abs() <= allowed).all())
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    return torch.equal(stored, weight.to(dtype).float())
