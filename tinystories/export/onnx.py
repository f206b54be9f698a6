"""Write a model as ONNX with a key/value cache, in the layout that transformers.js loads.

- The folder is a stock Llama or Phi-3 (see `stock.py`) whose weights are replaced by one file in `onnx/`.
- Inputs are `input_ids`, `attention_mask` `[batch, past + length]`, `position_ids`, and `past_key_values.N.key` and
  `.value` `[batch, key_value_heads, past, head_dim]`; outputs are `logits` `[batch, length, vocabulary]`,
  `present.N.key` and `.value`. Batch, length and past are dynamic; the first call has a past of length 0.
- The file is run in ONNX Runtime and compared with the model, with padding and with the cache. `f16` and `q8` round
  the weights, so for them the loss on stories is compared.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.synthetic import sample_stories
from ..utils.errors import UserError, install_command
from ..utils.paths import require_new_folder, staged
from .stock import export_stock
from .verify import STORY, Verified, check_difference


try:
    import onnx_ir
    import onnxruntime
    import onnxscript  # noqa: F401  torch.onnx.export needs it
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ModuleNotFoundError:
    raise UserError(f"ONNX export needs additional packages: {install_command('export')}.") from None

# The names in transformers.js: of the dtype, and of the file that it loads.
DTYPES = {"f32": ("fp32", "model.onnx"), "f16": ("fp16", "model_fp16.onnx"), "q8": ("q8", "model_quantized.onnx")}
TOLERANCE = 1e-4
# Nats per token: several times the change measured on models of 0.26 to 3.4 million parameters.
ALLOWED_COST = {"f16": 0.01, "q8": 0.05}
STORIES_SCORED = 16
LARGEST_FILE = 2**31
ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # others depend on the length of the text


@dataclass(frozen=True)
class OnnxExport(Verified):
    """Result of `export_onnx`; logits are compared in float32, with and without the cache.

    Attributes:
        bytes: size of the ONNX file.
        cost: increase of the loss on stories by rounding, in nats per token.
    """

    folder: Path
    file: Path
    architecture: str
    dtype: str
    bytes: int
    cost: float


def export_onnx(run: str | Path, out: str | Path, dtype: str = "f32") -> OnnxExport:
    """Write the model in a run folder or on the Hub to the folder `out`, as ONNX with a key/value cache.

    Args:
        dtype: `"f32"`, `"f16"` (weights and computation) or `"q8"` (int8 weights, dynamically quantised activations).

    Raises:
        UserError: if the model cannot be exported, or `out` is not empty.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"ONNX export does not support {dtype!r}: choose one of {', '.join(DTYPES)}.")
    require_new_folder(out)
    with staged(out) as folder:
        export_stock(run, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        _check_config(model)
        print("Tracing the model", file=sys.stderr, flush=True)
        exact = folder / "onnx" / DTYPES["f32"][1]
        exact.parent.mkdir()
        _trace(folder, torch.float32, exact)
        difference, positions = _compare(model, tokenizer, _Session(exact, model.config))
        check_difference(difference, TOLERANCE, "The ONNX file", run, out)
        file, cost = exact, 0.0
        if dtype != "f32":
            file = exact.with_name(DTYPES[dtype][1])
            if dtype == "f16":
                _trace(folder, torch.float16, file)
            else:
                _quantize(exact, file)
            exact.unlink()
            cost = _cost(model, tokenizer, _Session(file, model.config))
            if not cost <= ALLOWED_COST[dtype]:
                raise UserError(
                    f"In {dtype}, the loss of the model on stories is {cost:.3f} nats per token higher (allowed: "
                    f"{ALLOWED_COST[dtype]}), so nothing was written to {out}: choose --dtype f32."
                )
        _finish_folder(folder, dtype, tokenizer)
        size = file.stat().st_size
    return OnnxExport(
        parameters=model.num_parameters(),
        positions=positions,
        difference=difference,
        folder=out,
        file=out / "onnx" / file.name,
        architecture=type(model).__name__,
        dtype=dtype,
        bytes=size,
        cost=cost,
    )


def _check_config(model: PreTrainedModel) -> None:
    rope_type = model.config.rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise UserError(
            f"This model cannot be exported to ONNX: its rotary type {rope_type} depends on the length of the text, "
            f"which a graph cannot express (supported: {', '.join(ROPE_TYPES)})."
        )
    if 4 * model.num_parameters() >= LARGEST_FILE:
        raise UserError(
            f"This model cannot be exported to ONNX: it has {model.num_parameters():,} parameters, but an ONNX file "
            f"is limited to 2 GB, which is {LARGEST_FILE // 4:,} parameters."
        )


class _Cached(nn.Module):
    """The model with plain tensors as a cache, and attention in operators that every runtime supports."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        length, total = input_ids.shape[1], attention_mask.shape[1]
        queries = torch.arange(length) + (total - length)
        seen = torch.arange(total) <= queries[:, None]
        seen = seen[None, None] & attention_mask[:, None, None].bool()
        dtype = self.model.dtype
        # Half of the lowest number, so that adding to it stays finite in float16.
        masked = torch.tensor(torch.finfo(dtype).min / 2, dtype=dtype)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(seen, torch.zeros((), dtype=dtype), masked),
            position_ids=position_ids,
            past_key_values=DynamicCache(past),
            use_cache=True,
        )
        return outputs.logits, *(
            tensor for layer in outputs.past_key_values.layers for tensor in (layer.keys, layer.values)
        )


def _trace(folder: Path, dtype: torch.dtype, file: Path) -> None:
    """Write the graph of the model in `folder`, computed in `dtype`, to `file`."""
    # Loaded in that dtype, because `.to(dtype)` would also round the rotary frequencies.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    for parameter in model.parameters():
        # Loaded weights are memory-mapped, and Windows cannot delete a mapped file.
        parameter.data = parameter.data.clone()
    config = model.config
    batch, past, length = 2, 5, 3  # sizes 0 and 1 would be treated as constants
    layers = range(config.num_hidden_layers)
    cache = [
        tuple(torch.zeros(batch, config.num_key_value_heads, past, config.head_dim, dtype=dtype) for _ in range(2))
        for _ in layers
    ]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    batch_dim, past_dim, length_dim = map(torch.export.Dim, ("batch_size", "past_length", "length"))
    text, cached = {0: batch_dim, 1: length_dim}, {0: batch_dim, 2: past_dim}
    with _quiet("torch.onnx"), warnings.catch_warnings(), torch.no_grad():  # warnings about optional packages
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Cached(model).eval(),
            (
                torch.full((batch, length), 3),
                torch.ones(batch, past + length, dtype=torch.long),
                torch.arange(past, past + length).expand(batch, length).contiguous(),
                cache,
            ),
            input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}" for n in names)],
            output_names=["logits", *(f"present.{name}" for name in names)],
            dynamic_shapes={
                "input_ids": text,
                # The sum of both lengths, which torch infers.
                "attention_mask": {0: batch_dim, 1: torch.export.Dim.AUTO},
                "position_ids": text,
                "past": [(cached, cached) for _ in layers],
            },
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it would be without `dynamo`
    # The source location of each node takes more bytes than the weights of a small model.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    onnx_ir.save(program.model, file)


@contextmanager
def _quiet(name: str | None = None) -> Iterator[None]:
    """Show only errors of a logger, by default the root logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _quantize(exact: Path, file: Path) -> None:
    """Write the graph in `exact` with int8 weights to `file`."""
    model = onnx_ir.load(exact)
    # Only a direct operand of a product can become int8, so the transpose of a tied embedding is computed here.
    for node in list(model.graph):
        weight = node.inputs[0].const_value if node.op_type == "Transpose" else None
        if weight is not None and len(weight.shape) == 2:
            transposed = np.ascontiguousarray(weight.numpy().T)
            tensor = onnx_ir.tensor(transposed, name=f"{node.inputs[0].name}.transposed")
            value = onnx_ir.val(tensor.name, const_value=tensor)
            model.graph.register_initializer(value)
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], value)
            model.graph.remove(node, safe=True)
    transposed_file = file.with_name("transposed.onnx")
    onnx_ir.save(model, transposed_file)
    operators = ["MatMul", "Gather"]
    with _quiet():  # advice for image models
        quantize_dynamic(
            transposed_file, file, op_types_to_quantize=operators, per_channel=True, weight_type=QuantType.QInt8
        )
    transposed_file.unlink()


class _Session:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, config: PreTrainedConfig) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.config = config

    def empty_cache(self, batch: int) -> dict[str, np.ndarray]:
        shape = (batch, self.config.num_key_value_heads, 0, self.config.head_dim)
        inputs = [value for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]
        return {value.name: np.zeros(shape, np.float16 if "float16" in value.type else np.float32) for value in inputs}

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, position_ids: np.ndarray, cache: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits `[batch, length, vocabulary]` in float32, and the extended cache."""
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **cache}
        logits, *present = self.session.run(None, feed)
        names = [output.name.replace("present", "past_key_values") for output in self.session.get_outputs()[1:]]
        return logits.astype(np.float32), dict(zip(names, present, strict=True))


@torch.no_grad()
def _compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, session: _Session) -> tuple[float, int]:
    """Compare the graph with `model` on a long text and a short one with left padding, in one call and in several.

    Returns:
        The largest logit difference and the number of positions.
    """
    whole = np.array(tokenizer(STORY, verbose=False)["input_ids"][: model.config.max_position_embeddings])
    short = whole[: len(whole) * 2 // 3]
    ids = np.stack([whole, np.pad(short, (len(whole) - len(short), 0))])
    mask = np.ones_like(ids)
    mask[1, : -len(short)] = 0
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    expected = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()

    def largest_difference(start: int, end: int, logits: np.ndarray) -> float:
        seen = mask[:, start:end].astype(bool)
        return np.abs(logits - expected[:, start:end])[seen].max(initial=0.0)

    length = ids.shape[1]
    half = length // 2
    last = max(half, length - 4)
    pieces = [(0, half), (half, last), *((i, i + 1) for i in range(last, length))]
    differences = [largest_difference(0, length, session(ids, mask, positions, session.empty_cache(2))[0])]
    cache = session.empty_cache(2)
    for start, end in ((start, end) for start, end in pieces if start < end):
        logits, cache = session(ids[:, start:end], mask[:, :end], positions[:, start:end], cache)
        differences.append(largest_difference(start, end, logits))
    # `max` of a list would lose NaN.
    return float(np.max(differences)), 2 * int(mask.sum())


@torch.no_grad()
def _cost(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, session: _Session) -> float:
    """The loss of the graph minus that of `model`, on stories, in nats per token."""
    losses = []
    for story in islice(sample_stories(STORIES_SCORED), STORIES_SCORED):
        ids = np.array([tokenizer(story, verbose=False)["input_ids"][: model.config.max_position_embeddings]])
        positions = np.arange(ids.shape[1])[None]
        logits, _ = session(ids, np.ones_like(ids), positions, session.empty_cache(1))
        target = torch.from_numpy(ids[0, 1:])
        before, after = (
            nn.functional.cross_entropy(row[:-1], target, reduction="sum").item()
            for row in (model(torch.from_numpy(ids)).logits[0], torch.from_numpy(logits)[0].double())
        )
        losses.append((after - before, len(target)))
    increase, tokens = np.sum(losses, axis=0)
    return float(increase / tokens)


def _finish_folder(folder: Path, dtype: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Delete the weights and add the settings that transformers.js reads."""
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    name = DTYPES[dtype][0]
    settings = {"dtype": name} | ({"kv_cache_dtype": {name: "float16"}} if dtype == "f16" else {})
    _add(folder / "config.json", "transformers.js_config", settings)
    if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        # Without this setting its pipeline omits BOS.
        _add(folder / "tokenizer_config.json", "add_bos_token", True)
    template = folder / "chat_template.jinja"
    if template.exists():  # transformers.js reads it from tokenizer_config.json only
        _add(folder / "tokenizer_config.json", "chat_template", template.read_text(encoding="utf-8"))
        template.unlink()


def _add(file: Path, key: str, value: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | {key: value}
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
