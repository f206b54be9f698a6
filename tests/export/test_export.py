"""Exports to stock transformers architectures: logits, generation, folder contents, refusals."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from helpers import (
    PROMPT,
    edit_weights,
    fails_with_one_line,
    random_ids,
    run_in_clean_process,
    tiny_model,
    tinystories,
)
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.cli import main
from tinystories.export import stock, verify
from tinystories.export.stock import export_stock, to_llama, to_phi3
from tinystories.utils.errors import UserError


FULL = {"partial_rotary_factor": 1.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
    "factor": 4.0,
    "original_max_position_embeddings": 24,
}
BOTH = {
    "grouped heads": {},
    "one key/value head": {"num_key_value_heads": 1},
    "seven heads": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7, "intermediate_size": 150},
    "wide heads": {"head_dim": 24},
    "untied": {"tie_word_embeddings": False},
    "other theta, eps and activation": {"rope_theta": 321.0, "rms_norm_eps": 1e-3, "hidden_act": "gelu"},
    "no pad token, two ends": {"pad_token_id": None, "bos_token_id": None, "eos_token_id": [0, 5]},
    "attention dropout": {"attention_dropout": 0.1},
}
LLAMA = {
    **{name: {**changes, **FULL} for name, changes in BOTH.items()},
    "biases": {"attention_bias": True, "mlp_bias": True, **FULL},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, **FULL}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **FULL}},
    "yarn": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **FULL},
    },
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            **FULL,
        }
    },
}
PHI3 = {
    **BOTH,
    "a quarter rotated": {"head_dim": 16, "partial_rotary_factor": 0.25},
    "whole heads": FULL,
    "longrope": {"rope_parameters": LONGROPE},
}
CASES = [pytest.param(to_llama, LLAMA[name], id=f"llama, {name}") for name in LLAMA] + [
    pytest.param(to_phi3, PHI3[name], id=f"phi3, {name}") for name in PHI3
]


@pytest.mark.parametrize("convert, changes", CASES)
def test_saved_export_gives_the_same_logits_in_transformers(convert, changes, tmp_path):
    """In float64, so that rounding is far below the tolerance; test_parity.py compares in float32."""
    ours = tiny_model(**changes)
    convert(ours).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(theirs).__module__.startswith("transformers.models.")

    ours = ours.double()
    # 64 positions are the trained length, and longrope changes at 24.
    for length in (20, 64, 100):
        ids = random_ids(2, length)
        mask = torch.ones_like(ids)
        mask[1, :4] = 0
        with torch.no_grad():
            pair = [model(ids, attention_mask=mask).logits[mask.bool()] for model in (ours, theirs)]
        torch.testing.assert_close(*pair, atol=1e-6, rtol=0)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "attention_dropout", "max_position_embeddings"):
        assert getattr(theirs.config, name) == getattr(ours.config, name)


@pytest.mark.parametrize("convert, changes", [(to_llama, FULL), (to_phi3, {})], ids=["llama", "phi3"])
def test_generation_beyond_the_trained_length_is_identical(convert, changes):
    if convert is to_phi3 and Version(transformers.__version__) < Version("5.22"):
        pytest.skip("there, Phi-3 forgets the story where it passes the trained length")
    ours = tiny_model(**changes)
    options = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    ids = random_ids(2, 40)
    assert torch.equal(ours.generate(ids, **options), convert(ours).generate(ids, **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("convert, changes", [(to_llama, FULL), (to_phi3, {})], ids=["llama", "phi3"])
def test_dtype_is_kept_and_rotary_frequencies_are_not_rounded(convert, changes, dtype, tmp_path):
    tiny_model(**changes).to(dtype).save_pretrained(tmp_path / "ours")
    ours = TinyLlamaForCausalLM.from_pretrained(tmp_path / "ours")
    theirs = convert(ours)
    assert {parameter.dtype for parameter in theirs.parameters()} == {dtype}
    assert theirs.model.rotary_emb.inv_freq.dtype == torch.float32
    theirs.save_pretrained(tmp_path / "theirs")
    assert {weight.dtype for weight in load_file(tmp_path / "theirs" / "model.safetensors").values()} == {dtype}


def test_weights_are_copied_including_the_padding_row():
    ours = tiny_model()
    theirs = to_phi3(ours)
    pad = ours.config.pad_token_id
    assert ours.model.embed_tokens.weight[pad].abs().max() > 0
    assert torch.equal(theirs.model.embed_tokens.weight, ours.model.embed_tokens.weight)
    with torch.no_grad():
        theirs.model.embed_tokens.weight.zero_()
    assert ours.model.embed_tokens.weight.abs().max() > 0


@pytest.mark.parametrize(
    "target, changes", [("phi3", {}), pytest.param("llama", FULL, marks=pytest.mark.slow)], ids=["phi3", "llama"]
)
def test_export_loads_in_a_clean_environment(target, changes, tiny_run, run, tmp_path):
    source = run(**changes) if changes else tiny_run
    out = tmp_path / "out" / "stories"
    result = tinystories("export", source, out)
    assert result.returncode == 0, result.stderr
    assert {"llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM"}[target] in result.stdout

    assert not list(out.glob("*.py")) and [path.name for path in out.parent.iterdir()] == ["stories"]
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == target and "auto_map" not in config
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    generation = [json.loads((path / "generation_config.json").read_text()) for path in (source, out)]
    assert generation[0] == generation[1]

    ours, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    inputs = tokenizer([PROMPT, "One day, a"], padding=True, return_tensors="pt")
    expected = ours.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=30).tolist()
    kind, tokens, text = run_in_clean_process(
        f"""
import json
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer([{PROMPT!r}, "One day, a"], padding=True, return_tensors="pt")
tokens = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=30).tolist()
storyteller = pipeline("text-generation", model=sys.argv[1])
text = storyteller({PROMPT!r}, max_new_tokens=10)[0]["generated_text"]
print(json.dumps([type(model).__module__, tokens, text]))
""",
        out,
        tmp_path,
    )
    assert kind == f"transformers.models.{target}.modeling_{target}"
    assert tokens == expected
    assert text.startswith(PROMPT)


def test_fully_rotated_heads_can_be_exported_as_phi3(run, tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder may exist
    export = export_stock(run(**FULL), tmp_path / "out", to="phi3")
    assert export.architecture == "Phi3ForCausalLM" and export.difference <= 1e-5 and export.positions > 100


@pytest.mark.parametrize("case", ["up before gate", "keys before queries", "not a number", "another tokenizer"])
def test_wrong_conversion_is_detected_and_nothing_is_written(case, run, tmp_path, monkeypatch):
    def faulty(model):
        phi3 = to_phi3(model)
        with torch.no_grad():
            if case == "up before gate":
                weight = phi3.model.layers[1].mlp.gate_up_proj.weight
                weight.copy_(weight.roll(weight.shape[0] // 2, dims=0))
            if case == "keys before queries":
                weight = phi3.model.layers[1].self_attn.qkv_proj.weight
                weight.copy_(weight.roll(16, dims=0))
            if case == "not a number":
                phi3.model.norm.weight[3] = torch.nan
        return phi3

    if case == "another tokenizer":
        other = SimpleNamespace(from_pretrained=lambda folder: lambda text, **_: {"input_ids": [3]})
        monkeypatch.setattr(verify, "AutoTokenizer", other)
    monkeypatch.setitem(stock.TARGETS, "phi3", faulty)
    folder = run()
    with pytest.raises(UserError, match="nothing was written"):
        export_stock(folder, tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


def test_export_mistakes_are_one_line(run, tiny_run, tmp_path, capsys):
    def refused(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    out, file = tmp_path / "out", tmp_path / "file"
    file.write_text("x")
    said = refused(tiny_run, out, "--to", "llama")
    assert "rotates whole heads" in said and "50%" in said and "remove `--to llama`" in said
    assert "--to gpt2 is not supported: choose one of llama, phi3" in refused(tiny_run, out, "--to", "gpt2")
    with pytest.raises(UserError, match="no export to 'gpt2': choose one of llama, phi3"):
        export_stock(tiny_run, out, to="gpt2")
    assert "already exists" in refused(tiny_run, tiny_run)
    assert "already exists" in refused(tiny_run, file)
    assert "file is a file. Choose another folder" in refused(tiny_run, file / "below")
    assert "no run folder" in refused(tmp_path / "none", out)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=600, n_embd=8, n_layer=1, n_head=1))
    assert "is a gpt2; only tinyllama models" in refused(run(gpt2), out)
    assert "only 500 embeddings" in refused(run(vocab_size=500), out)
    assert not out.exists()
    fails_with_one_line(tinystories("export", tiny_run, tiny_run), "already exists")


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda weights: weights.pop("model.norm.weight"), "missing keys: model.norm.weight"),
        (lambda weights: weights["model.norm.weight"].fill_(torch.nan), "model.norm.weight has values that are not"),
    ],
    ids=["missing", "not finite"],
)
def test_a_run_with_a_missing_or_non_finite_weight_is_refused(damage, words, run, tmp_path):
    folder = run()
    edit_weights(folder, damage)
    with pytest.raises(UserError, match=words):
        export_stock(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "convert, changes, words",
    [
        (to_phi3, {"attention_bias": True}, "biases.*attention_bias"),
        (to_phi3, {"mlp_bias": True, **FULL}, "remove `--to phi3`"),
        (to_phi3, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        (to_phi3, {"head_dim": 24, "rope_parameters": {**LONGROPE, "short_factor": [1] * 6, "long_factor": [2] * 6}},
         "short_factor"),
        (to_llama, {"partial_rotary_factor": 0.25, "head_dim": 16}, "25%"),
        (to_llama, {"initializer_range": 2.0, **FULL}, "initializer_range.*2.0"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_refused(convert, changes, words):
    with pytest.raises(UserError, match=words):
        convert(tiny_model(**changes))
