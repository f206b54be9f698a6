"""GGUF export, compared with a numpy implementation of llama.cpp, with transformers, and with llama.cpp itself."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPT, edit_weights, random_ids, tiny_model, without_package
from test_import_llama2c import legacy, make_model, pieces, tokenizer_file  # noqa: F401  pieces is a fixture
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer, GenerationConfig
from transformers.generation import LogitsProcessorList

from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.export.gguf_cache import cached_gguf
from tinystories.export.import_model import import_model
from tinystories.runs.loading import load_model
from tinystories.tokenization import PreTrainedTokenizerFast
from tinystories.utils.errors import UserError


gguf = pytest.importorskip("gguf")
ours = pytest.importorskip("tinystories.export.gguf")
export_gguf = ours.export_gguf

FULL = {"partial_rotary_factor": 1.0}
CASES = {
    "phi3, grouped heads": {},
    "phi3, one key/value head, untied": {"num_key_value_heads": 1, "tie_word_embeddings": False},
    "phi3, a quarter rotated, other theta and eps": {
        "hidden_size": 64, "partial_rotary_factor": 0.25, "rope_theta": 321.0, "rms_norm_eps": 1e-3,
    },
    "phi3, seven heads": {
        "hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7, "intermediate_size": 150,
    },
    "llama, grouped heads": FULL,
    "llama, seven heads, untied": {
        "hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7, "tie_word_embeddings": False, **FULL,
    },
    "llama, wide heads, other theta and eps": {"head_dim": 24, "rope_theta": 321.0, "rms_norm_eps": 1e-3, **FULL},
    "llama, no pad token, two ends": {
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": [0, 5], **FULL,
    },
}  # fmt: skip


# --- The file, read with the gguf package alone.


def fields(file: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def stored(file: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


def kinds(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights in the file under TinyLlama's names and with its order of rows."""
    field, tensors = fields(file), stored(file)
    arch = field["general.architecture"]
    width = field[f"{arch}.attention.key_length"]
    rows = [field[f"{arch}.attention.head_count"] * width, *[field[f"{arch}.attention.head_count_kv"] * width] * 2]
    found = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "model.norm.weight": tensors["output_norm.weight"],
    }
    found["lm_head.weight"] = tensors.get("output.weight", tensors["token_embd.weight"])
    for i in range(field[f"{arch}.block_count"]):
        layer, block = f"model.layers.{i}.", f"blk.{i}."
        if arch == "phi3":
            q, k, v = np.split(tensors[block + "attn_qkv.weight"], np.cumsum(rows)[:2])
            gate, up = np.split(tensors[block + "ffn_up.weight"], 2)
        else:
            # Row 2i + j of a head in the file is row i + j * width / 2 in transformers.
            order = np.array([2 * (row % (width // 2)) + row // (width // 2) for row in range(width)])
            q, k = (
                tensors[block + name]
                .reshape(-1, width, tensors[block + name].shape[1])[:, order]
                .reshape(-1, tensors[block + name].shape[1])
                for name in ("attn_q.weight", "attn_k.weight")
            )
            v, gate, up = (tensors[block + f"{name}.weight"] for name in ("attn_v", "ffn_gate", "ffn_up"))
        for name, weight in (
            ("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v),
            ("self_attn.o_proj", tensors[block + "attn_output.weight"]),
            ("mlp.gate_proj", gate), ("mlp.up_proj", up), ("mlp.down_proj", tensors[block + "ffn_down.weight"]),
            ("input_layernorm", tensors[block + "attn_norm.weight"]),
            ("post_attention_layernorm", tensors[block + "ffn_norm.weight"]),
        ):  # fmt: skip
            found[f"{layer}{name}.weight"] = weight
    return {name: torch.from_numpy(weight.copy()) for name, weight in found.items()}


def llama_cpp_logits(file: Path, ids: list[int]) -> np.ndarray:
    """`[len(ids), vocab_size]`, as llama.cpp computes its architectures `llama` and `phi3`, from the file alone."""
    field, t = fields(file), {name: tensor.astype(np.float64) for name, tensor in stored(file).items()}
    arch = field["general.architecture"]

    def key(name):
        return field[f"{arch}.{name}"]

    heads, kv_heads, width = key("attention.head_count"), key("attention.head_count_kv"), key("attention.key_length")
    rotated, length = key("rope.dimension_count"), len(ids)
    angles = np.outer(np.arange(length), 1 / key("rope.freq_base") ** (np.arange(0, rotated, 2) / rotated))

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + key("attention.layer_norm_rms_epsilon")) * weight

    def rotate(x):  # [length, heads, width]
        x, cos, sin = x.copy(), np.cos(angles)[:, None], np.sin(angles)[:, None]
        # GGML_ROPE_TYPE_NORMAL rotates adjacent dimensions, GGML_ROPE_TYPE_NEOX those half of the rotated part apart.
        first, second = (slice(0, rotated, 2), slice(1, rotated, 2)) if arch == "llama" else (
            slice(0, rotated // 2), slice(rotated // 2, rotated))  # fmt: skip
        one, other = x[..., first].copy(), x[..., second].copy()
        x[..., first], x[..., second] = one * cos - other * sin, one * sin + other * cos
        return x

    x = t["token_embd.weight"][ids]
    for i in range(key("block_count")):
        h = norm(x, t[f"blk.{i}.attn_norm.weight"])
        if arch == "llama":
            q, k, v = (h @ t[f"blk.{i}.attn_{name}.weight"].T for name in "qkv")
        else:
            q, k, v = np.split(h @ t[f"blk.{i}.attn_qkv.weight"].T, [heads * width, (heads + kv_heads) * width], -1)
        q, k = rotate(q.reshape(length, heads, width)), rotate(k.reshape(length, kv_heads, width))
        k, v = (np.repeat(part.reshape(length, kv_heads, width), heads // kv_heads, 1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
        scores[:, np.triu_indices(length, 1)[0], np.triu_indices(length, 1)[1]] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", scores, v).reshape(length, -1) @ t[f"blk.{i}.attn_output.weight"].T
        h = norm(x, t[f"blk.{i}.ffn_norm.weight"])
        if arch == "llama":
            gate, up = h @ t[f"blk.{i}.ffn_gate.weight"].T, h @ t[f"blk.{i}.ffn_up.weight"].T
        else:
            gate, up = np.split(h @ t[f"blk.{i}.ffn_up.weight"].T, 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ t[f"blk.{i}.ffn_down.weight"].T
    return norm(x, t["output_norm.weight"]) @ t.get("output.weight", t["token_embd.weight"]).T


@pytest.mark.parametrize("changes", [pytest.param(CASES[name], id=name) for name in CASES])
def test_tensors_and_logits_match_llama_cpp_layout(changes, run, tmp_path):
    export = export_gguf(run(**changes), tmp_path / "out.gguf", "f32")
    model = tiny_model(**{"vocab_size": 600, **changes})
    assert export.architecture == ("llama" if changes.get("partial_rotary_factor") == 1.0 else "phi3")
    assert export.difference <= 1e-9 and export.rounding == 0.0 and export.stories > 100

    found = weights(export.file)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)
    ids = random_ids(1, 40)
    with torch.no_grad():
        expected = model(ids).logits[0].double().numpy()
    np.testing.assert_allclose(llama_cpp_logits(export.file, ids[0].tolist()), expected, atol=1e-4)

    field, config = fields(export.file), model.config
    assert field[f"{export.architecture}.context_length"] == config.max_position_embeddings
    assert field[f"{export.architecture}.vocab_size"] == len(field["tokenizer.ggml.tokens"]) == 600
    assert ("output.weight" in stored(export.file)) != config.tie_word_embeddings
    if changes.get("eos_token_id"):
        # `generate()` stops at both, and so does llama.cpp.
        assert (field["tokenizer.ggml.eos_token_id"], field["tokenizer.ggml.eot_token_id"]) == (0, 5)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"hidden_size": 64, **FULL}], ids=["phi3", "llama"])
def test_matrices_are_rounded_to_the_dtype_and_norms_stay_float32(changes, dtype, run, tmp_path):
    export = export_gguf(run(**changes), tmp_path / "out.gguf", dtype)
    assert export.difference <= 1e-9 and 0 < export.rounding < 1
    found = weights(export.file)
    for name, weight in tiny_model(**{"vocab_size": 600, **changes}).state_dict().items():
        if weight.ndim == 1:
            assert torch.equal(found[name], weight)
        elif dtype == "q8_0" and "down_proj" not in name:
            step = weight.view(-1, 32).abs().amax(-1, keepdim=True) / 127
            errors = (found[name] - weight).view(-1, 32).abs() / step
            assert 0.4 < errors.max() < 0.6 and torch.unique(found[name]).numel() < weight.numel()
        else:
            # Rows of 48 cannot be divided into blocks of 32.
            rounded = torch.bfloat16 if dtype == "bf16" else torch.float16
            assert torch.equal(found[name], weight.to(rounded).float())
    expected = {"Q8_0": 5, "F16": 2} if dtype == "q8_0" else {dtype.upper(): 7}
    assert export.not_quantized == (2 if dtype == "q8_0" else 0)
    if export.architecture == "llama":
        expected = {"Q8_0": 13, "F16": 2} if dtype == "q8_0" else {dtype.upper(): 15}
    else:
        expected = {"Q8_0": 7, "F16": 2} if dtype == "q8_0" else {dtype.upper(): 9}
    found = list(kinds(export.file).values())
    assert {kind: found.count(kind) for kind in set(found)} == {**expected, "F32": 5}
    assert export.bytes == export.file.stat().st_size


def test_transformers_reads_the_file_and_generates_the_same(run, tmp_path):
    folder = run(**FULL)
    file = export_gguf(folder, tmp_path / "gguf" / "stories.gguf", "f32").file
    model, tokenizer = load_model(str(folder))
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert type(theirs).__module__ == "transformers.models.llama.modeling_llama"
    options = {"max_new_tokens": 40, "do_sample": False, "repetition_penalty": 1.0}
    inputs = tokenizer([PROMPT], return_tensors="pt", return_token_type_ids=False)
    assert torch.equal(theirs.generate(**inputs, **options), model.generate(**inputs, **options))
    words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for story in sample_stories(20, seed=1):
        ids = tokenizer(story, add_special_tokens=False)["input_ids"]
        assert words(story, add_special_tokens=False)["input_ids"] == ids


# --- Refusals


DAMAGES = {
    "rows in their places": (FULL, "in the GGUF file differs from the weight of the model"),
    "gate after up": ({}, "in the GGUF file differs from the weight of the model"),
    "another theta": ({}, "does not reproduce the logits"),
    "whole heads rotated": ({}, "does not reproduce the logits"),
    "another number of heads": ({}, "does not reproduce the logits"),
    "half of the merges": ({}, "does not encode"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_wrong_file_is_detected_and_nothing_is_written(case, run, tmp_path, monkeypatch):
    changes, words = DAMAGES[case]
    writer = gguf.GGUFWriter

    def wrong(name, change):
        right = getattr(writer, name)
        monkeypatch.setattr(writer, name, lambda self, value, *rest, **more: right(self, change(value), *rest, **more))

    if case == "rows in their places":
        monkeypatch.setattr(ours, "_halves_to_neighbours", lambda weight, head_dim: weight)
    if case == "gate after up":
        add = writer.add_tensor
        monkeypatch.setattr(writer, "add_tensor", lambda self, name, data, **more: add(
            self, name, np.roll(data, len(data) // 2, 0) if "ffn_up" in name else data, **more))  # fmt: skip
    if case == "another theta":
        wrong("add_rope_freq_base", lambda theta: theta * 1.01)
    if case == "whole heads rotated":
        wrong("add_rope_dimension_count", lambda count: 2 * count)
    if case == "another number of heads":
        wrong("add_head_count", lambda count: count // 2)
        wrong("add_head_count_kv", lambda count: count // 2)
        wrong("add_key_length", lambda width: 2 * width)
    if case == "half of the merges":
        wrong("add_token_merges", lambda merges: merges[::2])
    with pytest.raises(UserError, match=words):
        export_gguf(run(**changes), tmp_path / "new" / "out.gguf")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"attention_bias": True, **FULL}, "biases.*attention_bias"),
        ({"mlp_bias": True, **FULL}, "biases.*mlp_bias"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, **FULL}}, "rotary type linear"),
        ({"hidden_act": "gelu", **FULL}, "silu.*gelu"),
        ({"head_dim": 24}, r"head_dim \(96\) must equal hidden_size \(32\)"),
        ({"eos_token_id": None, **FULL}, "this model has 0"),
    ],
)
def test_models_that_llama_cpp_does_not_support_are_refused(changes, words, run, tmp_path):
    with pytest.raises(UserError, match=words):
        export_gguf(run(**changes), tmp_path / "new" / "out.gguf")
    assert not list((tmp_path / "new").iterdir())


def test_values_too_large_for_a_dtype_are_refused(run, tmp_path):
    model = tiny_model(vocab_size=600)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 3] = 1e5
    folder = run(model)
    with pytest.raises(UserError, match="too large for f16: choose --dtype bf16"):
        export_gguf(folder, tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out.gguf").exists()
    assert export_gguf(folder, tmp_path / "out.gguf", "bf16").difference <= 1e-9


def test_mistakes_are_one_line(tiny_run, tmp_path, monkeypatch, capsys):
    command = ["export", str(tiny_run), str(tmp_path / "stories.gguf"), "--to", "gguf"]
    assert main([*command, "--dtype", "q8_0"]) == 0
    said = capsys.readouterr().out
    for words in ("phi3", "q8_0", "tolerance 1e-05", "identical tokens in 201 stories", "rounding"):
        assert words in said
    assert main(command) == 2
    assert "already exists" in capsys.readouterr().err.splitlines()[-1]
    assert main(["export", str(tiny_run), str(tmp_path / "out"), "--dtype", "f16"]) == 2
    assert "--to gguf" in capsys.readouterr().err.splitlines()[-1]
    for out, dtype, words in (
        ("stories", "f16", "ends in .gguf"),
        ("new.gguf", "q4_0", "f32, f16, bf16, q8_0"),
    ):
        with pytest.raises(UserError, match=words):
            export_gguf(tiny_run, tmp_path / out, dtype)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        export_gguf(tiny_run, tmp_path / "file" / "new.gguf")
    without_package(monkeypatch, "gguf", "tinystories.export.gguf")
    assert main(["export", str(tiny_run), str(tmp_path / "new.gguf"), "--to", "gguf"]) == 2
    assert "pip install '.[export]'" in capsys.readouterr().err.splitlines()[-1]


# --- Metadata and tokenizer


def test_name_licence_preset_and_no_chat_template(run, tmp_path):
    folder = run(name="my-phi3-stories", **FULL)
    (folder / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\nStories.\n")
    GenerationConfig(
        do_sample=True, temperature=0.75, top_k=40, top_p=0.9, repetition_penalty=1.25, eos_token_id=0
    ).save_pretrained(folder)
    field = fields(export_gguf(folder, tmp_path / "out.gguf").file)
    assert field["general.license"] == "cdla-sharing-1.0"
    for number, card in enumerate(("---\nlicense: [\n---\nStories.\n", "---\nlicense: [mit, other]\n---\n")):
        (folder / "README.md").write_text(card)
        assert "general.license" not in fields(export_gguf(folder, tmp_path / f"{number}.gguf").file)
    # With "phi3" in the name, llama.cpp expects tokens of Microsoft's model and fails without them.
    assert field["general.name"] == "my-Phi 3-stories"
    assert field["general.file_type"] == 1 and field["general.quantization_version"] == 2
    assert field["general.sampling.sequence"] == "penalties;temperature;top_k;top_p"
    found = {name: field[f"general.sampling.{name}"] for name in ("temp", "top_p", "penalty_repeat")}
    assert found == pytest.approx({"temp": 0.75, "top_p": 0.9, "penalty_repeat": 1.25})
    assert (field["general.sampling.top_k"], field["general.sampling.penalty_last_n"]) == (40, 64)
    assert AutoTokenizer.from_pretrained(folder).chat_template and not any("chat_template" in name for name in field)


def test_vocabulary_is_padded_to_the_rows_of_the_embedding(run, tmp_path):
    field = fields(export_gguf(run(vocab_size=620, **FULL), tmp_path / "out.gguf").file)
    tokens, types = field["tokenizer.ggml.tokens"], field["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 620 and len(set(tokens)) == 620
    assert tokens[:3] == ["<|endoftext|>", "<|padding|>", "<unk>"] and types[:3] == [3, 3, 3]
    assert set(types[3:600]) == {1} and set(types[600:]) == {5}
    assert (field["tokenizer.ggml.model"], field["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert field["tokenizer.ggml.add_bos_token"] is True and field["tokenizer.ggml.add_eos_token"] is False
    ids = [field[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")]
    assert ids == [0, 0, 1, 2]


def byte_level(**changes) -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e")], **changes.pop("model", {})))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **changes})
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def with_token(content: str, **settings) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.add_tokens(AddedToken(content, **settings))
    return tokenizer


def like_sentencepiece(*others: str, pre_tokenizer=None) -> PreTrainedTokenizerFast:
    names = ["<unk>", "<s>", *[f"<0x{byte:02X}>" for byte in range(256)], *others]
    vocab = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "tokenizer, words",
    [
        (ByT5Tokenizer, "ByT5Tokenizer is not a fast tokenizer"),
        (lambda: with_token("<mask>", lstrip=True), "depends on the text around it"),
        (lambda: with_token("[PAD599]"), "a name reserved for unused tokens"),
        (lambda: like_sentencepiece("▁", " ", "a"), "differ only in a space and a ▁"),
        (lambda: like_sentencepiece("▁", "a", pre_tokenizer=pre_tokenizers.Metaspace()),
         "does not split text as SentencePiece does"),
        (lambda: byte_level(add_prefix_space=True), "does not split text as GPT-2 does"),
        (lambda: byte_level(use_regex=False), "does not split text as GPT-2 does"),
        (lambda: byte_level(model={"ignore_merges": True}), "settings that llama.cpp does not support"),
        (lambda: PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")), eos_token="<unk>"),
         "WordLevel"),
    ],
)  # fmt: skip
def test_tokenizers_that_llama_cpp_does_not_support_are_refused(tokenizer, words, run, tmp_path):
    with pytest.raises(UserError, match=f"cannot reproduce this tokenizer.*{words}"):
        export_gguf(run(tokenizer=tokenizer(), **FULL), tmp_path / "new" / "out.gguf")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("scheme", ["always", "never"])
def test_a_metaspace_pre_tokenizer_is_a_space_prefix(scheme, run, tmp_path):
    tokenizer = like_sentencepiece("▁", *"abcdefghijklmnopqrstuvwxyz")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    field = fields(export_gguf(run(tokenizer=tokenizer, **FULL), tmp_path / "out.gguf").file)
    assert field["tokenizer.ggml.add_space_prefix"] is (scheme == "always")


def test_special_tokens_other_than_bos_are_refused(run, tmp_path):
    tokenizer = with_token("<cls>", special=True)
    cls = ("<cls>", tokenizer.convert_tokens_to_ids("<cls>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[cls])
    with pytest.raises(UserError, match="special tokens other than BOS"):
        export_gguf(run(tokenizer=tokenizer, **FULL), tmp_path / "new" / "out.gguf")
    assert not list((tmp_path / "new").iterdir())


def test_tokenizer_without_bos_is_recorded(run, tmp_path):
    field = fields(export_gguf(run(tokenizer=byte_level(), **FULL), tmp_path / "out.gguf").file)
    assert field["tokenizer.ggml.add_bos_token"] is False


@pytest.fixture
def llama2c_run(pieces, tmp_path):  # noqa: F811
    """A run folder of a llama2.c model, whose tokenizer is SentencePiece-like."""
    (tmp_path / "model.bin").write_bytes(legacy(make_model()))
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_file(pieces))
    return import_model(tmp_path / "model.bin", tmp_path / "imported").folder


def test_sentencepiece_tokenizer_has_scores(llama2c_run, pieces, tmp_path):  # noqa: F811
    field = fields(export_gguf(llama2c_run, tmp_path / "out.gguf", "f32").file)
    assert field["tokenizer.ggml.model"] == "llama" and "tokenizer.ggml.merges" not in field
    tokens, types, scores = (field[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    assert types[:3] == [2, 3, 3] and set(types[3:259]) == {6} and set(types[259:]) == {1}
    assert tokens[259:] == [piece.decode().replace(" ", "▁") for piece, _ in pieces[259:]]
    # In the order of the scores in llama2.c's own file.
    made = [i for i in range(259, len(tokens)) if len(tokens[i]) > 1]
    assert sorted(made, key=lambda i: -scores[i]) == sorted(made, key=lambda i: -pieces[i][1])
    assert field["tokenizer.ggml.add_space_prefix"] is True and field["tokenizer.ggml.add_bos_token"] is True
    # Its stories end with the token that begins the next one, <s>.
    assert (field["tokenizer.ggml.eos_token_id"], field["tokenizer.ggml.eot_token_id"]) == (1, 2)


@pytest.mark.parametrize("case, words", [("one left out", "not all pairs"), ("one elsewhere", "not ordered by piece")])
def test_merges_that_scores_cannot_express_are_refused(case, words, llama2c_run, tmp_path):
    file = llama2c_run / "tokenizer.json"
    content = json.loads(file.read_text())
    merges = content["model"]["merges"]
    several = next(i for i in range(1, len(merges)) if "".join(merges[i]) == "".join(merges[i - 1]))
    moved = merges.pop(several)
    if case == "one elsewhere":
        merges.append(moved)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        export_gguf(llama2c_run, tmp_path / "new" / "out.gguf")


# --- The cache of files, which `generate --engine llama.cpp` reads.


def test_a_file_is_written_once_per_content_of_the_folder(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    first = cached_gguf(run, "f32")
    written = first.stat().st_mtime_ns
    assert Path(os.environ["HF_HOME"]) in first.parents
    assert cached_gguf(tiny_run, "f32") == cached_gguf(run, "f32") == first and first.stat().st_mtime_ns == written
    assert cached_gguf(run, "f16") != first
    (run / "log.csv").write_text("not exported")
    assert cached_gguf(run, "f32") == first
    settings = json.loads((run / "generation_config.json").read_text())
    (run / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.11}))
    second = cached_gguf(run, "f32")
    assert second != first and second.is_file()


def test_a_file_that_another_process_has_written_meanwhile_is_used(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    edit_weights(run, lambda weights: weights["model.norm.weight"].mul_(1.5))

    def in_both_processes(*arguments):
        return export_gguf(*arguments), export_gguf(*arguments)

    monkeypatch.setattr(ours, "export_gguf", in_both_processes)
    assert cached_gguf(run, "f32").is_file()


# --- llama.cpp itself.


class LlamaCpp:
    """llama.cpp's server with a model, on one thread, with a float32 cache, because float16 would round."""

    def __init__(self, file: Path):
        xllamacpp = pytest.importorskip("xllamacpp")
        options = xllamacpp.CommonParams()
        options.model.path = str(file)
        options.n_ctx, options.n_parallel = 256, 1
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.warmup = options.fit_params = False
        options.verbosity = -1
        self.server = xllamacpp.Server(options)

    def ask(self, path: str, **question) -> dict:
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        return self.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def next_token(self, ids: list[int], plain: int) -> dict[int, float]:
        """Log-probabilities of the next token. The server reports none for a token that is only part of a character,
        so the token `plain` is forced."""
        answer = self.ask("/completion", prompt=ids, n_predict=1, n_probs=1000, logit_bias=[[plain, 1e3]])
        return {one["id"]: one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]}

    def greedy(self, ids: list[int], count: int) -> dict:
        return self.ask("/completion", prompt=ids, n_predict=count, temperature=0, top_k=1, repeat_penalty=1.0,
                        n_probs=3, return_tokens=True)  # fmt: skip


def compare_greedy(file: Path, folder: Path, count: int) -> tuple[list[int], float]:
    """For each prompt, the first token at which the two stories differ (`count` if none), and the largest difference
    of a log-probability before it. Where they differ, both tokens must have nearly the same probability."""
    model, tokenizer = load_model(str(folder))
    server = LlamaCpp(file)
    parts, differences = [], []
    for prompt in (PROMPT, "One day, a", "The happy cat", "Lily"):
        ids = tokenizer(prompt)["input_ids"]
        options = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": count}
        story = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        answer = server.greedy(ids, count)
        theirs = answer["tokens"]
        same = next((i for i, (one, other) in enumerate(zip(theirs, story, strict=False)) if one != other), count)
        with torch.no_grad():
            logits = model(torch.tensor([ids + story])).logits[0, len(ids) - 1 :]
        best = logits.log_softmax(-1)
        if same < count:
            gap = best[same].max() - best[same, theirs[same]]
            assert gap < 0.05, f"{prompt}: {gap}"
        assert len(answer["completion_probabilities"]) == len(theirs)
        for i, step in enumerate(answer["completion_probabilities"][:same]):
            differences += [abs(one["logprob"] - best[i, one["id"]].item()) for one in step["top_logprobs"]]
        parts.append(same)
        assert same == count or len(theirs) > same
    return parts, max(differences)


def test_llama_cpp_generates_the_same_stories(tiny_run, tmp_path):
    file = export_gguf(tiny_run, tmp_path / "f32.gguf", "f32").file
    assert compare_greedy(file, tiny_run, 110) == ([110] * 4, pytest.approx(0, abs=1e-3))
    file = export_gguf(tiny_run, tmp_path / "f16.gguf", "f16").file
    assert compare_greedy(file, tiny_run, 110)[1] < 0.1


@pytest.mark.parametrize("changes", [pytest.param(CASES[name], id=name) for name in CASES])
def test_llama_cpp_computes_the_same_logits(changes, run, tmp_path):
    model = tiny_model(**{"vocab_size": 600, **changes})
    server = LlamaCpp(export_gguf(run(model), tmp_path / "out.gguf", "f32").file)
    plain = server.tokens(" the")[-1]
    for seed, length in enumerate((1, 2, 7, 30, 60)):
        ids = random_ids(1, length, seed)
        with torch.no_grad():
            expected = model(ids).logits[0, -1].log_softmax(-1)
        found = server.next_token(ids[0].tolist(), plain)
        assert len(found) == 600
        for token, logprob in found.items():
            assert logprob == pytest.approx(expected[token].item(), abs=1e-3)


@pytest.mark.parametrize("kind", ["trained here", "of llama2.c"])
def test_llama_cpp_encodes_a_thousand_stories_identically(kind, tiny_run, request, tmp_path):
    folder = tiny_run if kind == "trained here" else request.getfixturevalue("llama2c_run")
    server = LlamaCpp(export_gguf(folder, tmp_path / "out.gguf").file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = "".join(tokenizer.all_special_tokens)
    odd = [
        "",
        " ",
        "  two  spaces  ",
        "\n\nHe's 12,345.\r\n\tI'LL",
        "naïve “quotes” – 日本 😀\u2003x\x85\u200b",
        special,
    ]
    for text in [*sample_stories(1000, seed=5), *odd, f"Once{special} upon"]:
        assert server.tokens(text) == tokenizer(text, verbose=False)["input_ids"], text


def test_llama_cpp_samples_as_generate_does(run, tiny_run, tmp_path):
    """Without sampling parameters in a request, the preset in the file gives the same tokens and probabilities."""
    model, tokenizer = load_model(str(tiny_run))
    preset = GenerationConfig(
        do_sample=True, temperature=0.8, top_k=40, top_p=0.9, repetition_penalty=1.3, eos_token_id=0, pad_token_id=1
    )
    model.generation_config = preset
    folder = run(model)
    server = LlamaCpp(export_gguf(folder, tmp_path / "out.gguf", "f32").file)
    ids = tokenizer("One day, there was a")["input_ids"]
    answer = server.ask("/completion", prompt=ids, n_predict=60, n_probs=40, seed=3, post_sampling_probs=True,
                        return_tokens=True)  # fmt: skip
    # The logits processors that `generate()` builds from the preset.
    steps: LogitsProcessorList = model._get_logits_processor(
        generation_config=preset, input_ids_seq_length=len(ids), encoder_input_ids=None, prefix_allowed_tokens_fn=None,
        logits_processor=LogitsProcessorList(),
    )  # fmt: skip
    generated = list(ids)
    for step, token in zip(answer["completion_probabilities"], answer["tokens"], strict=True):
        with torch.no_grad():
            scores = steps(torch.tensor([generated]), model(torch.tensor([generated])).logits[:, -1])
        expected = {i: p for i, p in enumerate(scores.softmax(-1)[0].tolist()) if p > 0}
        found = {one["id"]: one["prob"] for one in step["top_probs"] if one["prob"] > 0}
        assert found == pytest.approx(expected, abs=1e-3)
        generated.append(token)
    assert len(generated) > len(ids) + 5


def test_model_name_does_not_trigger_llama_cpp_special_cases(run, tmp_path):
    server = LlamaCpp(export_gguf(run(name="phi-3-stories"), tmp_path / "out.gguf").file)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "phi-3-stories")
    assert server.tokens("<|padding|> Once") == tokenizer("<|padding|> Once")["input_ids"]
