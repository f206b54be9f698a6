"""ONNX export: logits and generation in ONNX Runtime, with and without the cache."""

import hashlib
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import PROMPT, without_package
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

from tinystories.cli import main
from tinystories.runs.loading import load_model
from tinystories.utils.errors import UserError


pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
ours = pytest.importorskip("tinystories.export.onnx")
export_onnx = ours.export_onnx

FULL = {"partial_rotary_factor": 1.0}
KINDS = {"phi3": None, "llama": {"tie_word_embeddings": False, **FULL}}
PROMPTS = [PROMPT, "One day, a little", "The"]


@pytest.fixture(scope="module", autouse=True)
def traced_once(tmp_path_factory):
    """Trace the same model in the same dtype only once, because that takes seconds."""
    kept, trace = tmp_path_factory.mktemp("traced"), ours._trace

    def trace_once(folder, dtype, file):
        content = b"".join((folder / name).read_bytes() for name in ("config.json", "model.safetensors"))
        before = kept / f"{hashlib.sha256(content).hexdigest()}-{dtype}.onnx"
        if not before.exists():
            trace(folder, dtype, before)
        shutil.copyfile(before, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_trace", trace_once)
        yield


@pytest.fixture(scope="module", params=["phi3", pytest.param("llama", marks=pytest.mark.slow)])
def exported(request, run, tiny_run, tmp_path_factory):
    """The trained model, which is a Phi-3, or a random Llama; its export and its run folder."""
    source = tiny_run if KINDS[request.param] is None else run(**KINDS[request.param])
    export = export_onnx(source, tmp_path_factory.mktemp("onnx") / "new" / "stories")
    return SimpleNamespace(kind=request.param, source=source, export=export)


def session_of(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def start(session, batch):
    """The empty cache of the first call, created from the graph's inputs as by transformers.js."""
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        value.name: np.zeros((batch, value.shape[1], 0, value.shape[3]), kinds[value.type])
        for value in session.get_inputs()[3:]
    }


def generate(session, inputs, count, cached=True):
    """Greedy tokens after those of a batch padded on the left."""
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    cache, fed = start(session, len(ids)), ids
    for _ in range(count):
        positions = np.maximum(mask.cumsum(-1) - 1, 0)[:, -fed.shape[1] :]
        outputs = session.run(None, {"input_ids": fed, "attention_mask": mask, "position_ids": positions, **cache})
        following = outputs[0][:, -1].argmax(-1)[:, None]
        ids, mask = np.append(ids, following, 1), np.append(mask, np.ones_like(following), 1)
        fed = following if cached else ids
        if cached:
            cache = dict(zip(cache, outputs[1:], strict=True))
    return ids


def test_folder_has_the_layout_of_transformers_js(exported):
    folder, kind = exported.export.folder, exported.kind
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "config.json", "generation_config.json", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == kind and config["transformers.js_config"] == {"dtype": "fp32"}
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast" and said["add_bos_token"] is True
    same = [AutoTokenizer.from_pretrained(path)(PROMPTS)["input_ids"] for path in (exported.source, folder)]
    assert same[0] == same[1] and same[0][0].count(0) == 1
    assert said["chat_template"] == AutoTokenizer.from_pretrained(exported.source).chat_template
    generation = [GenerationConfig.from_pretrained(path).to_dict() for path in (exported.source, folder)]
    assert generation[0] == generation[1]

    loaded = AutoConfig.from_pretrained(folder)
    session = session_of(exported.export.file)
    heads, width = loaded.num_key_value_heads, loaded.head_dim
    cache = [f"{i}.{part}" for i in range(loaded.num_hidden_layers) for part in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in cache)]
    assert [value.name for value in session.get_inputs()] == names
    assert [value.name for value in session.get_outputs()] == ["logits", *(f"present.{name}" for name in cache)]
    for value in session.get_inputs()[3:]:
        assert value.shape == ["batch_size", heads, "past_length", width]
    weights = sum(parameter.nbytes for parameter in load_model(str(exported.source))[0].parameters())
    # In small models, torch transposes every weight in advance, so a tied one is stored twice.
    assert exported.export.bytes == exported.export.file.stat().st_size < 1.5 * weights + 50_000
    assert exported.export.positions > 200 and exported.export.difference <= ours.TOLERANCE


def test_logits_match_at_any_length_and_batch_size(exported):
    model, _ = load_model(str(exported.source))
    session = session_of(exported.export.file)
    for batch, length in ((1, 1), (1, 2), (3, 17), (2, 90)):
        ids = torch.randint(3, 600, (batch, length), generator=torch.Generator().manual_seed(length))
        positions = np.broadcast_to(np.arange(length), (batch, length)).copy()
        feed = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(positions), "position_ids": positions}
        logits, *cache = session.run(None, feed | start(session, batch))
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(ids.to(model.device)).logits.cpu().numpy(), atol=1e-4, rtol=0)
        assert {tensor.shape for tensor in cache} == {(batch, cache[0].shape[1], length, cache[0].shape[3])}


def test_onnx_generates_the_same_stories(exported):
    model, tokenizer = load_model(str(exported.source))
    session = session_of(exported.export.file)
    options = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": None, "max_new_tokens": 50}
    for prompts in (PROMPTS[:1], PROMPTS):
        inputs = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        expected = model.generate(**inputs.to(model.device), **options).cpu().numpy()
        inputs = inputs.to("cpu")
        assert (generate(session, inputs, 50) == expected).all()
        assert (generate(session, inputs, 15, cached=False) == expected[:, : inputs["input_ids"].shape[1] + 15]).all()


TELL = """
const { pipeline, env } = require("@huggingface/transformers");
env.allowRemoteModels = false;
env.localModelPath = process.argv[1];
(async () => {
  const tell = await pipeline("text-generation", process.argv[2], { device: "cpu" });
  const options = { do_sample: false, repetition_penalty: 1.0, max_new_tokens: 40 };
  const told = [];
  for (const prompt of process.argv.slice(3)) told.push((await tell(prompt, options))[0].generated_text);
  console.log(JSON.stringify(told));
})();
"""


def node(code, *arguments):
    """Run `code` with Node, which finds its packages by `NODE_PATH`; return the JSON in its last line of output."""
    result = subprocess.run(["node", "-e", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_transformers_js_generates_the_same_stories(exported):
    there = shutil.which("node") and subprocess.run(
        ["node", "-e", 'require.resolve("@huggingface/transformers")'], capture_output=True
    )
    if not there or there.returncode:
        pytest.skip("node or its package @huggingface/transformers is not installed")
    storyteller = pipeline("text-generation", model=load_model(str(exported.source))[0], device="cpu",
                           tokenizer=AutoTokenizer.from_pretrained(exported.source))  # fmt: skip
    options = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 40}
    expected = [storyteller(prompt, **options)[0]["generated_text"] for prompt in PROMPTS]
    folder = exported.export.folder
    assert node(TELL, f"{folder.parent}/", folder.name, *PROMPTS) == expected


def test_comparison_works_with_a_text_of_two_tokens(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "STORY", "a")
    assert export_onnx(tiny_run, tmp_path / "out").positions == 2 * 3


def test_int8_loss_increase_is_small_and_printed(tiny_run, tmp_path, capsys):
    out = tmp_path / "int8"
    assert main(["export", str(tiny_run), str(out), "--to", "onnx", "--dtype", "q8"]) == 0
    said = capsys.readouterr().out
    assert "q8" in said and "nats per token" in said and "tolerance 1e-04" in said
    assert [path.name for path in (out / "onnx").iterdir()] == ["model_quantized.onnx"]
    assert json.loads((out / "config.json").read_text())["transformers.js_config"] == {"dtype": "q8"}
    model, tokenizer = load_model(str(tiny_run))
    ids = np.array([tokenizer(PROMPT)["input_ids"]])
    session = session_of(out / "onnx" / "model_quantized.onnx")
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    logits = session.run(None, feed | start(session, 1))[0]
    with torch.no_grad():
        difference = np.abs(logits - model(torch.from_numpy(ids).to(model.device)).logits.cpu().numpy()).max()
    assert 1e-3 < difference < 2  # rounded, and the same model


@pytest.mark.slow
def test_float16_export_computes_in_float16_throughout(tiny_run, tmp_path):
    export = export_onnx(tiny_run, tmp_path / "half", "f16")
    assert export.file.name == "model_fp16.onnx" and abs(export.cost) < 1e-3
    config = json.loads((export.folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "fp16", "kv_cache_dtype": {"fp16": "float16"}}
    session = session_of(export.file)
    assert {value.type for value in [*session.get_inputs()[3:], *session.get_outputs()]} == {"tensor(float16)"}
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    # Queries of padding attend to nothing, and must not become NaN.
    inputs = tokenizer([PROMPT, "The"], padding=True, return_tensors="pt", return_token_type_ids=False)
    mask = inputs["attention_mask"].numpy()
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    feed = {"input_ids": inputs["input_ids"].numpy(), "attention_mask": mask, "position_ids": positions}
    outputs = session.run(None, feed | start(session, 2))
    assert all(np.isfinite(tensor).all() for tensor in outputs)
    half = AutoModelForCausalLM.from_pretrained(tiny_run, dtype=torch.float16)
    with torch.no_grad():
        expected = half(**inputs, position_ids=torch.from_numpy(positions)).logits.float().numpy()
    np.testing.assert_allclose(outputs[0][mask == 1].astype(np.float32), expected[mask == 1], atol=0.1)


@pytest.mark.slow
def test_other_llama_settings_are_exported(run, tmp_path):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16, **FULL}  # fmt: skip
    folder = run(
        rope_parameters=rope, attention_bias=True, mlp_bias=True, head_dim=24, num_key_value_heads=1, hidden_act="gelu"
    )
    session = session_of(export_onnx(folder, tmp_path / "out").file)
    model, tokenizer = load_model(str(folder))
    inputs = tokenizer(PROMPTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    options = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": None, "max_new_tokens": 30}
    assert (generate(session, inputs, 30) == model.generate(**inputs, **options).numpy()).all()


# --- Refusals


def damage(file, case):
    import onnx_ir

    model = onnx_ir.load(file)
    nodes = list(model.graph)
    if case in ("another weight", "not a number"):
        name = max(model.graph.initializers, key=lambda name: model.graph.initializers[name].const_value.nbytes)
        value = model.graph.initializers[name]
        numbers = value.const_value.numpy().copy()
        numbers[5] = np.nan if case == "not a number" else numbers[6]
        value.const_value = onnx_ir.tensor(numbers, name=name)
    if case == "positions from zero":
        # As if position ids were ignored, which is correct only for a first call without padding.
        position = next(value for value in model.graph.inputs if value.name == "position_ids")
        zero = onnx_ir.node("Sub", [position, position])
        model.graph.insert_before(nodes[0], zero)
        for user, index in list(position.uses()):
            if user is not zero:
                user.replace_input_with(index, zero.outputs[0])
    if case == "padding is seen":
        mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
        ones = onnx_ir.node("Abs", [mask])
        one = onnx_ir.node("Constant", [], {"value": onnx_ir.tensor(np.array(1, np.int64))})
        seen = onnx_ir.node("Max", [ones.outputs[0], one.outputs[0]])
        for node in (ones, one, seen):
            model.graph.insert_before(nodes[0], node)
        for user, index in list(mask.uses()):
            if user is not ones:
                user.replace_input_with(index, seen.outputs[0])
    onnx_ir.save(model, file)


@pytest.mark.parametrize("case", ["another weight", "not a number", "positions from zero", "padding is seen"])
def test_wrong_file_is_detected_and_nothing_is_written(case, tiny_run, tmp_path, monkeypatch):
    trace = ours._trace

    def wrong(folder, dtype, file):
        trace(folder, dtype, file)
        damage(file, case)

    monkeypatch.setattr(ours, "_trace", wrong)
    with pytest.raises(UserError, match="does not reproduce the logits.*nothing was written"):
        export_onnx(tiny_run, tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


def test_too_large_loss_increase_by_rounding_is_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(ours.ALLOWED_COST, "q8", -1.0)
    with pytest.raises(UserError, match="choose --dtype f32"):
        export_onnx(tiny_run, tmp_path / "new" / "out", "q8")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_length_dependent_rotary_types_are_refused(rope, run, tmp_path):
    with pytest.raises(UserError, match=f"rotary type {rope['rope_type']} depends on the length"):
        export_onnx(run(rope_parameters={**rope, **FULL}), tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


def test_mistakes_are_one_line(tiny_run, tmp_path, monkeypatch, capsys):
    def refused(*options):
        assert main(["export", str(tiny_run), *map(str, options), "--to", "onnx"]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "f32, f16, q8" in refused(tmp_path / "out", "--dtype", "q8_0")
    assert "already exists" in refused(tiny_run)
    monkeypatch.setattr(ours, "LARGEST_FILE", 1000)
    assert "limited to 2 GB" in refused(tmp_path / "out")
    without_package(monkeypatch, "onnxruntime", "tinystories.export.onnx")
    assert "pip install '.[export]'" in refused(tmp_path / "out")
    assert not (tmp_path / "out").exists()
