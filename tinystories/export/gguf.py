"""A run folder as one GGUF file, for llama.cpp and what is built on it.

Design decisions
- **Two architectures, both exact.** Where whole heads are rotated the file is a `llama`, below that a `phi3`: the
  `llama` of llama.cpp insists on whole heads, and its `phi3` rotates the first `rope.dimension_count` numbers of each
  head, in our order. What llama.cpp cannot compute is refused.
- **Its `llama` rotates neighbours.** llama.cpp turns the pairs (0, 1), (2, 3) of a head there, and we (0, n/2),
  (1, n/2 + 1), so the rows of the query and key projections change places. Its `phi3` has our order: no row moves.
- **For llama.cpp only, where heads are rotated in part.** transformers reads GGUF files, too, but leaves out how much
  of a head is rotated, and would make another model of a `phi3` file: for transformers there is `stock.py`.
- **It begins as a model of transformers' own** (`stock.py`), checked as such. The GGUF file is then read back by
  transformers, which undoes llama.cpp's layout by its own knowledge of it: every weight must be the one that was
  written, rounded as asked and no further, and the logits must be those of a model with these rounded weights.
- **Rounded by kind.** `f16`, `bf16` and `q8_0` say how matrices are stored; norms stay float32, as llama.cpp has it.
  `q8_0` is blocks of 32 numbers with one scale, so a matrix whose rows are no multiple of 32 stays f16.
- **The tokenizer encodes the same.** Ours is GPT-2's kind: `tokenizer.ggml.pre` is `gpt-2`, whose rule to split text
  is ours. A SentencePiece-like one (of llama2.c, or of Llama 2) has scores instead of merges there; that is the same
  where every pair that makes a piece is a merge, and is refused elsewhere. The file's tokenizer is built anew from
  the file and compared on stories.
- **Stories are drawn the same.** The preset in `generation_config.json` comes along as llama.cpp's defaults, steps in
  transformers' order: penalty over the whole text, temperature, top-k, top-p.
- **No chat template.** With one, llama.cpp's `llama-completion` takes the prompt for a chat and goes on asking; and
  it subtracts what a chat was before from what it is now, where ours leaves out what was said before.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from yaml import YAMLError

from ..data.synthetic import sample_stories
from ..generation.presets import GGUF_DTYPES
from ..utils.errors import UserError
from .stock import LONGEST_CHECK, STORY, TOLERANCE, export_stock, written_beside


try:
    import gguf
except ImportError:
    gguf = None

STORIES_COMPARED = 200
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
SPACE = "▁"  # what SentencePiece writes for a space


@dataclass(frozen=True)
class GgufExport:
    """What `export_gguf` wrote, and how it was found to agree."""

    file: Path
    architecture: str
    """llama.cpp's name of it."""
    dtype: str
    parameters: int
    bytes: int
    not_quantized: int
    """Matrices that stay f16 because their rows are no multiple of a block."""
    positions: int
    """Positions at which the logits were compared."""
    difference: float
    """The largest difference there between two logits of the file and of a model with its rounded weights."""
    rounding: float
    """The largest difference there that rounding the weights makes."""
    stories: int
    """Stories of which the tokens were compared."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as llama.cpp has it."""

    model: str
    """`gpt2` (byte-level, with merges) or `llama` (SentencePiece-like, with scores)."""
    tokens: list[str]
    types: list[int]
    merges: list[str] | None = None
    scores: list[float] | None = None
    add_space_prefix: bool = False


def export_gguf(run: str | Path, out: str | Path, dtype: str = "f16") -> GgufExport:
    """Write the model in the run folder (or on the Hub) `run` to the file `out`.

    Args:
        out: a name that ends in `.gguf`, of no file that there is.
        dtype: how matrices are stored, one of `GGUF_DTYPES`.

    Raises:
        UserError: where llama.cpp cannot compute the model or encode as its tokenizer does, or `out` exists.
    """
    if gguf is None:
        raise UserError("GGUF files need one more package: pip install 'tinyllama-stories[export]'")
    out = Path(out)
    if dtype not in GGUF_DTYPES:
        raise UserError(f"There is no GGUF export as {dtype!r}; there are {', '.join(GGUF_DTYPES)}.")
    if out.suffix != ".gguf":
        raise UserError(f"A GGUF export is one file: give it a name that ends in .gguf, such as {out}.gguf.")
    if out.exists():
        raise UserError(f"{out} exists already: give the name of a new file.")
    with written_beside(out) as file:
        stock = file.parent / "stock"
        export_stock(run, stock)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(stock).eval(), AutoTokenizer.from_pretrained(stock)
        _check_config(model.config)
        vocabulary = _vocabulary(tokenizer, model.config.vocab_size)
        kinds = _write(file, model, tokenizer, vocabulary, dtype, _about(run))
        difference, rounding, positions = _compare(file, model, tokenizer, kinds)
        if not difference <= TOLERANCE:
            raise UserError(
                f"Read back, the GGUF file does not give the logits of {run} (largest difference {difference:.1e}, "
                f"allowed {TOLERANCE:.0e}), so nothing was written to {out}."
            )
        stories = _compare_tokens(file, tokenizer)
        size = file.stat().st_size
    return GgufExport(
        file=out,
        architecture=model.config.model_type,
        dtype=dtype,
        parameters=model.num_parameters(),
        bytes=size,
        not_quantized=sum(dtype == "q8_0" and kind == "F16" for kind in kinds.values()),
        positions=positions,
        difference=difference,
        rounding=rounding,
        stories=stories,
    )


def _check_config(config) -> None:
    """Refuse what llama.cpp cannot compute in the architecture that this is."""
    biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if biases:
        raise UserError(f"A GGUF file of this architecture has no biases, and this model has ({', '.join(biases)}).")
    rope_type = config.rope_parameters.get("rope_type", "default")
    if rope_type != "default":
        raise UserError(f"The rotary type {rope_type} cannot be written to GGUF here, only the default one.")
    if config.hidden_act not in ("silu", "swish"):
        raise UserError(f"llama.cpp computes this architecture with silu, and this model has {config.hidden_act}.")
    width = config.num_attention_heads * config.head_dim
    if config.model_type == "phi3" and width != config.hidden_size:
        raise UserError(
            f"llama.cpp rotates a part of each head only where the heads are as wide together as the model, and here "
            f"they are {width:,} and {config.hidden_size:,} wide."
        )


def _about(run: str | Path) -> dict[str, str]:
    """Name and licence, as far as the folder tells them."""
    name = Path(run).resolve().name if Path(run).exists() else str(run).split("/")[-1]
    # By these two spellings llama.cpp knows Microsoft's model, and looks for tokens of it that are not here.
    about = {"name": re.sub("(?i)phi-?3", "Phi 3", name)}
    card = Path(run) / "README.md"
    if card.is_file():
        try:
            licence = ModelCard.load(card).data.get("license")
        except (ValueError, YAMLError):
            licence = None
        if isinstance(licence, str):
            about["license"] = licence
    return about


def _write(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    dtype: str,
    about: dict[str, str],
) -> dict[str, str]:
    """Write the file and return how each weight is stored, by transformers' names."""
    config = model.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about["name"])
    if "license" in about:
        writer.add_license(about["license"])
    writer.add_size_label(gguf.size_label(model.num_parameters(), 0, 0, 0))
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[file_types[dtype]])
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
    if architecture == "phi3":
        # Older versions of llama.cpp take its absence for a window of Phi-3's own width.
        writer.add_sliding_window(0)

    _write_vocabulary(writer, vocabulary, tokenizer, _ends(model, tokenizer))
    _write_preset(writer, model)
    kinds = _write_tensors(writer, model, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kinds


def _write_tensors(writer: "gguf.GGUFWriter", model: PreTrainedModel, dtype: str) -> dict[str, str]:
    config = model.config
    names = gguf.get_tensor_name_map(
        {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[config.model_type], config.num_hidden_layers
    )
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
            raise UserError(f"{name} holds numbers too large for {kind.lower()}: choose --dtype bf16 or f32.")
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=quantization)
        kinds[name] = kind
    return kinds


def _halves_to_neighbours(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of `[heads * head_dim, hidden]`, of each head those of its two halves in turn."""
    heads = weight.view(-1, 2, head_dim // 2, weight.shape[-1])
    return heads.transpose(1, 2).reshape(weight.shape)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that `generate()` stops at, the tokenizer's own first."""
    ends = model.generation_config.eos_token_id
    ends = model.config.eos_token_id if ends is None else ends
    ends = ends if isinstance(ends, list) else [ends]
    ends = sorted({end for end in ends if end is not None}, key=lambda end: (end != tokenizer.eos_token_id, end))
    if not 1 <= len(ends) <= 3:
        raise UserError(f"llama.cpp stops at one to three tokens, and this model at {len(ends)}.")
    return ends


def _write_vocabulary(
    writer: "gguf.GGUFWriter", vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, ends: list[int]
) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("gpt-2" if vocabulary.model == "gpt2" else "default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    before = whole == [tokenizer.bos_token_id, *bare]
    if not before and whole != bare:
        raise UserError("The tokenizer adds other tokens to a text than one that begins it, which llama.cpp does not.")
    writer.add_add_bos_token(before)
    writer.add_add_eos_token(False)
    # All that there is a default for, which would be some token of this vocabulary.
    writer.add_bos_token_id(ends[0] if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    for add, end in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False
    ):
        add(end)
    for add, token in (
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)


def _write_preset(writer: "gguf.GGUFWriter", model: PreTrainedModel) -> None:
    preset = model.generation_config
    writer.add_sampling_sequence("penalties;temperature;top_k;top_p")
    writer.add_sampling_penalty_last_n(model.config.max_position_embeddings)
    writer.add_sampling_penalty_repeat(preset.repetition_penalty or 1.0)
    # What is not set there is as `generate()` takes it, and a temperature of 0 is greedy.
    writer.add_sampling_temp((preset.temperature or 1.0) if preset.do_sample else 0.0)
    writer.add_sampling_top_k(50 if preset.top_k is None else preset.top_k)
    writer.add_sampling_top_p(preset.top_p or 1.0)


def _vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The tokenizer as llama.cpp has it, with unused tokens up to the `size` of the model.

    Raises:
        UserError: where llama.cpp has none that encodes the same.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal(f"{type(tokenizer).__name__} is not a fast tokenizer")
    spec = json.loads(backend.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        raise _refusal(f"it is a {model['type']} tokenizer")
    if any(
        model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "dropout")
    ):
        raise _refusal("its BPE has settings that llama.cpp has not")
    if any(token[name] for token in spec["added_tokens"] for name in ("single_word", "lstrip", "rstrip")):
        raise _refusal("one of its special tokens takes spaces or words around it into account")

    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    vocab = tokenizer.get_vocab()
    if max(vocab.values()) >= size:
        raise _refusal(f"it has the id {max(vocab.values()):,}, and the model {size:,} tokens")
    for token, i in vocab.items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
    for token in spec["added_tokens"]:
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    if len(set(tokens)) < size:
        raise _refusal("one of its tokens has a name that unused ones have here, such as [PAD0]")
    # Files written before tokenizers 0.20 have "left right", later ones have ["left", "right"].
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        return _sentencepiece(spec, tokens, types, merges, tokenizer.unk_token_id)
    pre = spec["pre_tokenizer"] or {}
    if spec["normalizer"] is not None or {name: pre.get(name) for name in BYTE_LEVEL} != BYTE_LEVEL:
        raise _refusal("it splits text in another way than GPT-2's")
    return Vocabulary("gpt2", tokens, types, merges=[" ".join(merge) for merge in merges])


def _sentencepiece(
    spec: dict, tokens: list[str], types: list[int], merges: list[tuple[str, str]], unk: int | None
) -> Vocabulary:
    """llama.cpp joins, again and again, the two neighbours whose union has the best score. Merges say the same where
    all pairs that make a piece are there, and those of one piece stand together."""
    prefix = _prefixes_space(spec)
    ordinary = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.NORMAL}
    ranks = {piece: rank for rank, (piece, _) in enumerate(groupby(merges, key="".join))}
    if len(merges) != len(set(merges)) or len(list(groupby(merges, key="".join))) != len(ranks):
        raise _refusal("its merges are in no order of pieces")
    if set(merges) != set(_pairs(ordinary)):
        raise _refusal("some pairs of its pieces make a piece and are no merge")

    for i, token in enumerate(tokens):
        if types[i] == gguf.TokenType.NORMAL and re.fullmatch("<0x[0-9A-F]{2}>", token):
            types[i] = gguf.TokenType.BYTE
    if unk is not None:
        types[unk] = gguf.TokenType.UNKNOWN
    marked = [
        token.replace(" ", SPACE) if kind == gguf.TokenType.NORMAL else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    if len(set(marked)) < len(marked):
        raise _refusal(f"two of its pieces differ by a space and a {SPACE} only")
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    return Vocabulary("llama", marked, types, scores=scores, add_space_prefix=prefix)


def _prefixes_space(spec: dict) -> bool:
    """Whether a SentencePiece-like tokenizer puts a space in front of a text; it may do nothing else to one."""
    normalizer, pre = spec["normalizer"] or {"type": "Sequence", "normalizers": []}, spec["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if pre is None:
        for prefix in (True, False):
            for begin, marks in ((" ", []), (SPACE, [mark])):
                if steps == [{"type": "Prepend", "prepend": begin}] * prefix + marks:
                    return prefix
    elif not steps and pre["type"] == "Metaspace" and pre["replacement"] == SPACE and not pre.get("split", True):
        return pre["prepend_scheme"] != "never"
    raise _refusal("it changes or splits text in another way than SentencePiece")


def _pairs(pieces: set[str]) -> Iterator[tuple[str, str]]:
    """All pairs of pieces that make a piece."""
    for piece in pieces:
        for cut in range(1, len(piece)):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield piece[:cut], piece[cut:]


def _refusal(why: str) -> UserError:
    return UserError(f"llama.cpp has no tokenizer that encodes as this one does: {why}.")


@torch.no_grad()
def _compare(
    file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kinds: dict[str, str]
) -> tuple[float, float, int]:
    """How far the logits of the file are from those of `model` with the file's rounded weights, how far these are from
    those before, and at how many positions; `model` keeps the rounded weights, in float64.

    Raises:
        UserError: where a weight is not the one that was written.
    """
    theirs = _read(file)
    weights, rounded = model.state_dict(), theirs.state_dict()
    for name, kind in kinds.items():
        if not _is_rounded(weights[name].float(), rounded[name].float(), kind):
            raise UserError(f"Read back, {name} in the GGUF file is not what was written, so it was thrown away.")

    ids = tokenizer(STORY, verbose=False)["input_ids"]
    length = min(model.config.max_position_embeddings, LONGEST_CHECK)
    row = torch.tensor([(ids * (length // len(ids) + 1))[:length]])
    model = model.double()
    exact = model(row).logits
    model.load_state_dict(rounded)
    ours = model(row).logits
    return (theirs(row).logits - ours).abs().max().item(), (ours - exact).abs().max().item(), length


def _read(file: Path) -> PreTrainedModel:
    """The model in the file as transformers reads it, float64."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if config.model_type == "phi3":
        # All that transformers leaves out.
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
        # Half a step, and what is lost in the scale, a float16: 11 bits, or 2**-25 where it is very small.
        step = blocks.abs().amax(-1, keepdim=True) / 127
        allowed = step * (0.5 + 127 * 2**-11) + 127 * 2**-25
        return bool(((stored.view_as(blocks) - blocks).abs() <= allowed).all())
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    return torch.equal(stored, weight.to(dtype).float())


def _compare_tokens(file: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """Encode stories with the tokenizer and with the one in the file, and return how many.

    Raises:
        UserError: where they differ.
    """
    theirs = _read_tokenizer(file)
    texts = [STORY, *islice(sample_stories(STORIES_COMPARED), STORIES_COMPARED)]
    for text in texts:
        ours = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if theirs.encode(text, add_special_tokens=False).ids != ours:
            raise UserError("Read back, the tokenizer in the GGUF file does not encode as that of the model does.")
    return len(texts)


def _read_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in the file, built from what the file says of it."""
    fields = gguf.GGUFReader(file).fields

    def field(name: str):
        return fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types = field("tokens"), field("token_type")
    vocab = {token: i for i, token in enumerate(tokens)}
    if field("model") == "gpt2":
        merges = [tuple(merge.split(" ")) for merge in field("merges")]
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        score = dict(zip(tokens, field("scores"), strict=True))
        ordinary = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.NORMAL}
        merges = sorted(_pairs(ordinary), key=lambda pair: (-score["".join(pair)], pair))
        unk = fields.get("tokenizer.ggml.unknown_token_id")
        backend = Tokenizer(
            models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token=unk and tokens[unk.contents()])
        )
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE)] * field("add_space_prefix") + [normalizers.Replace(" ", SPACE)]
        )
    return backend
