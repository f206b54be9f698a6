"""A run folder as ONNX with a cache, laid out as transformers.js expects it.

Design decisions
- **A folder of transformers' own kind first** (`stock.py`), checked as such: `config.json` names a Llama or a Phi-3,
  which every reader knows, and tokenizer and `generation_config.json` come along. The weights are then traded for
  `onnx/model.onnx`, one file with everything inside.
- **One graph for prompt and continuation.** Inputs are `input_ids`, `attention_mask` `[batch, past + length]`,
  `position_ids` and `past_key_values.N.key` and `.value` `[batch, key_value_heads, past, head_dim]`; outputs are
  `logits` `[batch, length, vocabulary]` and `present.N.key` and `.value`. Batch, length and past are free; a first
  call gives a past of length 0.
- **The mask is written out here**, so that the graph holds a comparison and no lookup, and attention is the plain one:
  operators that every runtime has. Masked places get half of the lowest number, so that a sum with it stays finite in
  float16, too: the queries of padding see nothing else.
- **Checked in ONNX Runtime**, against the model in float64: two texts, one padded on the left, in one piece, and with
  the cache in pieces and token by token. Only then the folder is moved to its place.
- **`f16` and `q8` are other functions**, so what they cost is measured, in nats a token on stories, and refused where
  it is more than rounding: `f16` computes in float16, `q8` has int8 weights and rounds activations as it goes. The
  file names are those under which transformers.js looks for them.
- Rotary types that change with the length of the text are refused: a graph has no memory of how long a text was.
"""

import json
import logging
import sys
import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ..data.synthetic import sample_stories
from ..utils.errors import UserError
from .stock import STORY, check_out, export_stock, written_beside


try:
    import onnx_ir
    import onnxruntime
    import onnxscript  # noqa: F401  what torch traces with
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError:
    onnx_ir = onnxruntime = None

# What transformers.js calls them, and the file that it then loads.
DTYPES = {"f32": ("fp32", "model.onnx"), "f16": ("fp16", "model_fp16.onnx"), "q8": ("q8", "model_quantized.onnx")}
TOLERANCE = 1e-4
# In nats a token: several times what was measured on models of 0.26 to 3.4 million parameters.
ALLOWED_COST = {"f16": 0.01, "q8": 0.05}
STORIES_SCORED = 16
LARGEST_FILE = 2**31
ROPE_TYPES = ("default", "linear", "yarn", "llama3")


@dataclass(frozen=True)
class OnnxExport:
    """What `export_onnx` wrote, and how it was found to agree."""

    folder: Path
    file: Path
    architecture: str
    dtype: str
    parameters: int
    bytes: int
    """Of the ONNX file."""
    positions: int
    """Positions at which the logits were compared, without and with the cache."""
    difference: float
    """The largest difference between two logits there, in float32."""
    cost: float
    """How many nats a token more than the model the file needs for stories."""


def export_onnx(run: str | Path, out: str | Path, dtype: str = "f32") -> OnnxExport:
    """Write the model in the run folder (or on the Hub) `run` to the folder `out`, as ONNX with a cache.

    Args:
        dtype: `"f32"`, `"f16"` (weights and arithmetic) or `"q8"` (int8 weights, activations rounded as it goes).

    Raises:
        UserError: where the model has no such graph, or `out` is not empty.
    """
    if onnxruntime is None:
        raise UserError("ONNX needs more packages: pip install 'tinyllama-stories[export]'")
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"There is no ONNX export as {dtype!r}; there are {', '.join(DTYPES)}.")
    check_out(out)
    with written_beside(out) as folder:
        export_stock(run, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        _check_config(model)
        print("tracing the model", file=sys.stderr, flush=True)
        exact = folder / "onnx" / DTYPES["f32"][1]
        exact.parent.mkdir()
        _trace(folder, torch.float32, exact)
        difference, positions = _compare(model, tokenizer, _Session(exact, model.config))
        if not difference <= TOLERANCE:
            raise UserError(
                f"The ONNX file does not give the logits of {run} (largest difference {difference:.1e}, allowed "
                f"{TOLERANCE:.0e}), so nothing was written to {out}."
            )
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
                    f"As {dtype} the model needs {cost:.3f} nats a token more for stories, allowed are "
                    f"{ALLOWED_COST[dtype]}, so nothing was written to {out}: choose --dtype f32."
                )
        _finish_folder(folder, dtype, tokenizer)
        size = file.stat().st_size
    return OnnxExport(
        folder=out,
        file=out / "onnx" / file.name,
        architecture=type(model).__name__,
        dtype=dtype,
        parameters=model.num_parameters(),
        bytes=size,
        positions=positions,
        difference=difference,
        cost=cost,
    )


def _check_config(model: PreTrainedModel) -> None:
    rope_type = model.config.rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise UserError(
            f"The rotary type {rope_type} changes with the length of the text, and an ONNX graph does not: "
            f"{', '.join(ROPE_TYPES)} can be exported."
        )
    if 4 * model.num_parameters() >= LARGEST_FILE:
        raise UserError(
            f"The model has {model.num_parameters():,} parameters, and one ONNX file holds 2 GB: fewer than "
            f"{LARGEST_FILE // 4:,}."
        )


class _Cached(nn.Module):
    """The model with plain tensors for a cache."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        length, total = input_ids.shape[1], attention_mask.shape[1]
        queries = torch.arange(length) + (total - length)
        seen = torch.arange(total) <= queries[:, None]
        seen = seen[None, None] & attention_mask[:, None, None].bool()
        dtype = self.model.dtype
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
    # Loaded in that dtype: `.to(dtype)` would round the rotary frequencies, too.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    for parameter in model.parameters():
        # Loaded weights are the memory-mapped file, and Windows deletes no file that is mapped.
        parameter.data = parameter.data.clone()
    config = model.config
    batch, past, length = 2, 5, 3  # torch takes 0 and 1 for fixed
    layers = range(config.num_hidden_layers)
    cache = [
        tuple(torch.zeros(batch, config.num_key_value_heads, past, config.head_dim, dtype=dtype) for _ in range(2))
        for _ in layers
    ]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    free_batch, free_past, free_length = map(torch.export.Dim, ("batch_size", "past_length", "length"))
    text, held = {0: free_batch, 1: free_length}, {0: free_batch, 2: free_past}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # else a warning for each package that torch could use and finds missing
    try:
        with warnings.catch_warnings(), torch.no_grad():
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
                    # The sum of the two lengths, which torch finds out by itself.
                    "attention_mask": {0: free_batch, 1: torch.export.Dim.AUTO},
                    "position_ids": text,
                    "past": [(held, held) for _ in layers],
                },
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    # Where in our code each node comes from: more bytes than the weights of a small model.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    onnx_ir.save(program.model, file)


def _quantize(exact: Path, file: Path) -> None:
    """Write the graph in `exact` with int8 weights to `file`."""
    model = onnx_ir.load(exact)
    # Only a weight that a product takes as it is can become int8; a tied embedding is turned first.
    for node in list(model.graph):
        weight = node.inputs[0].const_value if node.op_type == "Transpose" else None
        if weight is not None and len(weight.shape) == 2:
            turned = onnx_ir.tensor(np.ascontiguousarray(weight.numpy().T), name=f"{node.inputs[0].name}.turned")
            value = onnx_ir.val(turned.name, const_value=turned)
            model.graph.register_initializer(value)
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], value)
            model.graph.remove(node, safe=True)
    turned_file = file.with_name("turned.onnx")
    onnx_ir.save(model, turned_file)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # else advice that is for models of pictures
    try:
        quantize_dynamic(
            turned_file, file, op_types_to_quantize=["MatMul", "Gather"], per_channel=True, weight_type=QuantType.QInt8
        )
    finally:
        logger.setLevel(level)
    turned_file.unlink()


class _Session:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path, config):
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
        """Logits `[batch, length, vocabulary]` in float32, and the cache with these tokens."""
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **cache}
        logits, *present = self.session.run(None, feed)
        names = [output.name.replace("present", "past_key_values") for output in self.session.get_outputs()[1:]]
        return logits.astype(np.float32), dict(zip(names, present, strict=True))


@torch.no_grad()
def _compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, session: _Session) -> tuple[float, int]:
    """The largest difference between two logits of `model` and the graph, and at how many positions: a long text and
    a short one, padded on the left, in one piece and in pieces."""
    whole = np.array(tokenizer(STORY, verbose=False)["input_ids"][: model.config.max_position_embeddings])
    short = whole[: len(whole) * 2 // 3]
    ids = np.stack([whole, np.pad(short, (len(whole) - len(short), 0))])
    mask = np.ones_like(ids)
    mask[1, : -len(short)] = 0
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    expected = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()

    def apart(start: int, end: int, logits: np.ndarray) -> float:
        seen = mask[:, start:end].astype(bool)
        return np.abs(logits - expected[:, start:end])[seen].max(initial=0.0)

    length = ids.shape[1]
    half = length // 2
    last = max(half, length - 4)
    pieces = [(0, half), (half, last), *((i, i + 1) for i in range(last, length))]
    differences = [apart(0, length, session(ids, mask, positions, session.empty_cache(2))[0])]
    cache = session.empty_cache(2)
    for start, end in ((start, end) for start, end in pieces if start < end):
        logits, cache = session(ids[:, start:end], mask[:, :end], positions[:, start:end], cache)
        differences.append(apart(start, end, logits))
    # `max` of a list would lose what is not a number.
    return float(np.max(differences)), 2 * int(mask.sum())


@torch.no_grad()
def _cost(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, session: _Session) -> float:
    """Nats a token more than `model`, on stories, each alone in its context."""
    losses = []
    for story in islice(sample_stories(STORIES_SCORED), STORIES_SCORED):
        ids = np.array([tokenizer(story, verbose=False)["input_ids"][: model.config.max_position_embeddings]])
        positions = np.arange(ids.shape[1])[None]
        theirs, _ = session(ids, np.ones_like(ids), positions, session.empty_cache(1))
        rows = [model(torch.from_numpy(ids)).logits[0], torch.from_numpy(theirs)[0].double()]
        target = torch.from_numpy(ids[0, 1:])
        losses.append([nn.functional.cross_entropy(row[:-1], target, reduction="sum").item() for row in rows]
                      + [len(target)])  # fmt: skip
    ours, theirs, tokens = np.sum(losses, axis=0)
    return float((theirs - ours) / tokens)


def _finish_folder(folder: Path, dtype: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Leave what transformers.js loads, and tell it what there is."""
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    name = DTYPES[dtype][0]
    settings = {"dtype": name} | ({"kv_cache_dtype": {name: "float16"}} if dtype == "f16" else {})
    _add(folder / "config.json", "transformers.js_config", settings)
    if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        # Without this word its pipeline leaves out what the tokenizer puts in front.
        _add(folder / "tokenizer_config.json", "add_bos_token", True)
    template = folder / "chat_template.jinja"
    if template.exists():
        # transformers.js reads it from here only.
        _add(folder / "tokenizer_config.json", "chat_template", template.read_text(encoding="utf-8"))
        template.unlink()


def _add(file: Path, key: str, value) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | {key: value}
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
