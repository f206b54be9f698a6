"""Import of stock Llama and Phi-3 models, and round trips with the export."""

import json
import math
import os
import shutil

import pytest
import torch
from helpers import edit_weights, random_ids, sharpen, tiny_model
from safetensors.torch import load_file
from test_import_llama2c import encode, pieces, tokenizer_file  # noqa: F401  pieces is a fixture
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.export.import_model import import_model
from tinystories.export.stock import export_stock, from_stock, to_llama, to_phi3
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


VOCAB_SIZE = 320
SHARED = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}
BOTH = {
    "as it is": {},
    "untied": {"tie_word_embeddings": False},
    "one key/value head": {"num_key_value_heads": 1},
    "other theta, eps and activation": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 321.0},
        "rms_norm_eps": 1e-3,
        "hidden_act": "gelu",
    },
    "no pad token, two ends": {"pad_token_id": None, "eos_token_id": [0, 5]},
    "old ways to say none": {"pad_token_id": -1, "attention_dropout": 0.0},
}
LLAMA = {
    **BOTH,
    "wide heads": {"head_dim": 24},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            "rope_theta": 1e4,
        }
    },
}
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
PHI3 = {
    **BOTH,
    "the first half rotated": {"rope_parameters": HALF},
    "longrope": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0, 1.5, 1.7, 2.0],
            "long_factor": [2.0, 5.0, 6.0, 7.0],
        },
        "original_max_position_embeddings": 24,
    },
}
KINDS = {"llama": (LlamaForCausalLM, LlamaConfig), "phi3": (Phi3ForCausalLM, Phi3Config)}
CASES = [pytest.param("llama", LLAMA[name], id=f"llama, {name}") for name in LLAMA] + [
    pytest.param("phi3", PHI3[name], id=f"phi3, {name}") for name in PHI3
]


def stock_model(kind, **changes):
    model_class, config_class = KINDS[kind]
    return sharpen(model_class(config_class(**{**SHARED, **changes})))


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(sample_stories(100), VOCAB_SIZE, model_max_length=64, progress=False)


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A function that saves a model of transformers with a tokenizer: `folder("llama", untied=False)`."""

    def make(kind_or_model="llama", **changes):
        model = stock_model(kind_or_model, **changes) if isinstance(kind_or_model, str) else kind_or_model
        path = tmp_path / "stock"
        shutil.rmtree(path, ignore_errors=True)
        model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, max_new_tokens=9, eos_token_id=0)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return make


@pytest.mark.parametrize("kind, changes", CASES)
def test_imported_folder_gives_the_logits_of_the_original(kind, changes, folder, tmp_path):
    source = folder(kind, **changes)
    found = import_model(source, tmp_path / "out")
    assert found.difference <= 1e-5 and found.positions > 100 and found.kind == KINDS[kind][0].__name__

    theirs = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64).eval()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64).eval()
    assert type(ours) is TinyLlamaForCausalLM
    # 64 positions are the trained length, and some rotary types change before it.
    for length in (20, 64, 100):
        ids = random_ids(2, length)
        mask = torch.ones_like(ids)
        mask[1, :4] = 0
        with torch.no_grad():
            pair = [model(ids, attention_mask=mask).logits[mask.bool()] for model in (ours, theirs)]
        assert pair[1].std() > 0.1
        torch.testing.assert_close(*pair, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind, changes", [("llama", {}), ("phi3", {"rope_parameters": HALF})], ids=["llama", "phi3"])
def test_export_then_import_is_identical(kind, changes, folder, tokenizer, tmp_path):
    source = folder(kind, **changes)
    import_model(source, tmp_path / "ours")
    export_stock(tmp_path / "ours", tmp_path / "back", to=kind)
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for middle in (tmp_path / "ours", tmp_path / "back"):
        generation = json.loads((middle / "generation_config.json").read_text())
        assert generation["temperature"] == 0.7 and generation["max_new_tokens"] == 9
        assert (
            json.loads((middle / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
        )
        again = AutoTokenizer.from_pretrained(middle)
        for story in sample_stories(5):
            assert again(story, verbose=False)["input_ids"] == tokenizer(story, verbose=False)["input_ids"]


@pytest.mark.parametrize("convert, factor", [(to_llama, 1.0), (to_phi3, 0.5)], ids=["llama", "phi3"])
def test_import_then_export_is_identical(convert, factor):
    ours = tiny_model(partial_rotary_factor=factor)
    again = from_stock(convert(ours))
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in ours.state_dict().items())
    skip = ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype")
    configs = [{k: v for k, v in m.config.to_dict().items() if k not in skip} for m in (ours, again)]
    assert configs[0] == configs[1]
    with torch.no_grad():
        again.model.embed_tokens.weight.zero_()
    assert ours.model.embed_tokens.weight.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_of_the_weights_is_kept(dtype, folder, tmp_path):
    found = import_model(folder(stock_model("llama").to(dtype)), tmp_path / "out")
    assert found.dtype == dtype
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {dtype}


@pytest.mark.parametrize("case", ["up before gate", "keys before queries", "another tokenizer"])
def test_wrong_conversion_is_detected_and_nothing_is_written(case, folder, tmp_path, monkeypatch):
    """Control: the comparison detects a wrong conversion, and no file remains."""
    from tinystories.export import import_model as imports
    from tinystories.export import verify

    def faulty(model):
        tiny = from_stock(model)
        layer = tiny.model.layers[1]
        with torch.no_grad():
            if case == "up before gate":
                gate, up = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight
                gate.data, up.data = up.data, gate.data
            if case == "keys before queries":
                layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight[:16])
        return tiny

    if case == "another tokenizer":

        class Other:
            @staticmethod
            def from_pretrained(folder):
                return lambda text, **_: {"input_ids": [3]}

        monkeypatch.setattr(verify, "AutoTokenizer", Other)
    monkeypatch.setattr(imports, "from_stock", faulty)
    with pytest.raises(UserError, match="nothing was written"):
        import_model(folder("phi3"), tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))


class Code:
    def __reduce__(self):
        return os.system, ("true",)


def as_pickle(path):
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save({**weights, "extra": Code()}, path / "pytorch_model.bin")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"
LAYER = "model.layers.1.self_attn.q_proj.weight"
DAMAGES = {
    "a weight less": (lambda p: edit_weights(p, lambda w: w.pop(LAYER)), "missing keys.*q_proj"),
    "a weight more": (lambda p: edit_weights(p, lambda w: w.update(extra=torch.ones(2))), "unexpected keys.*extra"),
    "a shape": (lambda p: edit_weights(p, lambda w: w.update({LAYER: torch.ones(4, 4)})), "cannot be loaded|mismatch"),
    "not a number": (lambda p: edit_weights(p, lambda w: w[LAYER].view(-1)[3].fill_(math.nan)), "not finite"),
    "cut short": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-4]),
        "cannot be loaded",
    ),
    "a byte more": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes() + b"\0"),
        "cannot be loaded",
    ),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "weight files have 0 bytes"),
    "code": (as_pickle, "cannot be loaded"),
    "huge vocabulary": (lambda p: edit_config(p, vocab_size=2**40), "describes more than"),
    "many layers": (lambda p: edit_config(p, num_hidden_layers=2**40), "describes more than"),
    "wide heads": (lambda p: edit_config(p, head_dim=2**40), "describes more than"),
    "a layer more": (lambda p: edit_config(p, num_hidden_layers=3), "missing keys"),
    "a layer less": (lambda p: edit_config(p, num_hidden_layers=1), "unexpected keys"),
    "no heads": (lambda p: edit_config(p, num_attention_heads=0), "cannot be read"),
    "below zero": (lambda p: edit_config(p, intermediate_size=-4), "cannot be"),
    "words": (lambda p: edit_config(p, hidden_size="wide"), "cannot be read"),
    "no JSON": (lambda p: (p / "config.json").write_text("{"), "cannot be"),
    "an activation": (lambda p: edit_config(p, hidden_act="none"), "cannot be loaded|hidden_act"),
    "quantised": (lambda p: edit_config(p, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
    "part of a Llama's heads": (
        lambda p: edit_config(p, rope_parameters={**HALF}),
        "`partial_rotary_factor` 0.5",
    ),
    "a token out of reach": (lambda p: edit_config(p, bos_token_id=5_000), "bos_token_id"),
    "no tokenizer": (
        lambda p: [file.unlink() for file in p.glob("tokenizer*")],
        "has no tokenizer",
    ),
    "another vocabulary": (lambda p: edit_config(p, vocab_size=9), r"embed_tokens.weight has the shape .* instead of"),
    "tied, but two matrices": (
        lambda p: edit_weights(p, lambda w: w.update({"lm_head.weight": torch.ones(VOCAB_SIZE, 32)})),
        "`tie_word_embeddings` is true, but lm_head.weight differs",
    ),
    "an unknown dtype": (lambda p: edit_config(p, dtype="none"), "cannot be read: .*Correct its config.json"),
    "nested too deeply": (lambda p: (p / "config.json").write_text("[" * 100_000), "cannot be read"),
    "weights not downloaded": (lambda p: (p / "model.safetensors").write_bytes(POINTER), "safetensors is a Git LFS"),
    "a broken link": (lambda p: (p / "a.json").symlink_to("nowhere"), "a.json is a broken link to nowhere"),
    "tokenizer not downloaded": (lambda p: (p / "tokenizer.json").write_bytes(POINTER), "tokenizer.json is a Git LFS"),
    **{
        f"{name} is {content}": (
            lambda p, name=name, content=content: (p / name).write_text(content),
            f"The {'tokenizer' if 'tok' in name else 'model'} in .*stock cannot be loaded: .*damaged or incomplete",
        )
        for name, contents in {
            "tokenizer.json": ("", "{}", "[]", "null"),
            "tokenizer_config.json": ("[]", '{"model_max_length": "x"}', '{"extra_special_tokens": 5}'),
            "generation_config.json": ("[]",),
        }.items()
        for content in contents
    },
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_folder_is_one_line(case, folder, tmp_path, capfd):
    damage, words = DAMAGES[case]
    path = folder("llama")
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        import_model(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "[transformers]" not in capfd.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["stock"]


OTHER_FILES = {
    "m.onnx": (b"\x08\x07" + bytes(900), "cannot be imported: specify a WikiMini checkpoint"),
    "m.pth": (b"not a zip file", "not a zip file. Download or save it again"),
    "m.pt": (POINTER, "m.pt is a Git LFS pointer"),
    "m.gguf": (b"GGUF" + bytes(90), "is a GGUF file"),
    "pytorch_model.bin": (b"PK\x03\x04" + bytes(90), "specify the folder of the model"),
    "m.bin": (bytes(900), "is not a llama2.c model"),
    "m.zip": (b"PK\x03\x04" + bytes(90), "is truncated or has extra bytes"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_of_other_formats_are_refused(name, tmp_path):
    content, words = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=words) as caught:
        import_model(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_without_read_permission_is_one_line(name, folder, tmp_path):
    path = folder("llama")
    (path / name).chmod(0)
    with pytest.raises(UserError, match=f"{name} cannot be read: no read permission"):
        import_model(path, tmp_path / "out")


def test_a_sliding_window_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="`sliding_window`, which is 8"):
        import_model(folder("phi3", sliding_window=8), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dropout_is_kept_in_both_directions(folder, tmp_path):
    imported = import_model(folder("phi3", resid_pdrop=0.1, embd_pdrop=0.2), tmp_path / "out").folder
    exported = export_stock(imported, tmp_path / "stock-again", to="phi3").folder
    for path in (imported, exported):
        config = json.loads((path / "config.json").read_text())
        assert (config["resid_pdrop"], config["embd_pdrop"]) == (0.1, 0.2)


@pytest.mark.parametrize("eos, expected", [(2, 2), ([2, 1], 2), (None, 1), (-1, 1)])
def test_a_llama2c_tokenizer_file_ends_with_the_eos_token_of_the_model(eos, expected, folder, pieces, tmp_path):  # noqa: F811
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_file(pieces))
    source = folder("llama", vocab_size=len(pieces), eos_token_id=eos, bos_token_id=1)
    imported = import_model(source, tmp_path / "out", tmp_path / "tokenizer.bin").folder
    tokenizer = AutoTokenizer.from_pretrained(imported)
    assert tokenizer.eos_token_id == expected != tokenizer.pad_token_id
    assert tokenizer("Once upon a time")["input_ids"] == encode(pieces, "Once upon a time")


def test_a_tokenizer_file_is_that_of_its_folder(folder, tokenizer, tmp_path):
    source = folder("llama")
    for file in source.glob("tokenizer*"):
        file.unlink()
    tokenizer.save_pretrained(tmp_path / "words")
    imported = import_model(source, tmp_path / "out", tmp_path / "words" / "tokenizer.json").folder
    assert AutoTokenizer.from_pretrained(imported)("Once upon")["input_ids"] == tokenizer("Once upon")["input_ids"]
    shutil.copy(tmp_path / "words" / "tokenizer.json", tmp_path / "words" / "mine.json")
    with pytest.raises(UserError, match="mine.json is not named tokenizer.json: specify the folder"):
        import_model(source, tmp_path / "none", tmp_path / "words" / "mine.json")
    for name in ("none.json", "none.model", "none.bin"):
        with pytest.raises(UserError, match=f"There is no tokenizer .*{name}"):
            import_model(source, tmp_path / "none", tmp_path / name)
    assert not (tmp_path / "none").exists()


def test_mistakes_on_the_command_line_are_one_line(folder, tokenizer, tmp_path, capsys):
    def refused(*arguments):
        assert main(["import", *map(str, arguments)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        return said[-1]

    out = tmp_path / "out"
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, n_embd=8, n_layer=1, n_head=1))
    assert "is a gpt2; only Llama and Phi-3" in refused(folder(gpt2), out)
    assert "is a tinyllama; only" in refused(folder(tiny_model(vocab_size=VOCAB_SIZE)), out)
    assert "only 300 embeddings" in refused(folder("llama", vocab_size=300), out)
    source = folder("llama")
    assert "already exists" in refused(source, source)
    assert "There is no file or folder" in refused(tmp_path / "none", out)
    assert "specify the folder of the model" in refused(source / "model.safetensors", out)
    assert "no config.json" in refused(tmp_path, out)
    assert "cannot be" in refused("someone/nothing-by-this-name", out)
    assert not out.exists()

    tokenizer.save_pretrained(tmp_path / "words")
    for file in source.glob("tokenizer*"):
        file.unlink()
    assert main(["import", str(source), str(out), "--tokenizer", str(tmp_path / "words")]) == 0
    said = capsys.readouterr()
    assert "LlamaForCausalLM" in said.out and "largest logit difference" in said.out
    assert AutoTokenizer.from_pretrained(out).pad_token_id == 1
