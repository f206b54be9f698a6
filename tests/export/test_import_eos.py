"""EOS of imported llama2.c models: as trained, after fine-tuning, and in every export."""

import json
from types import SimpleNamespace

import datasets
import pytest
import torch
from test_import_llama2c import legacy, pieces, tokenizer_file  # noqa: F401  pieces is a fixture
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.commands.train import train
from tinystories.data.packing import PackedStories, tokenize_stories
from tinystories.export.import_model import import_model
from tinystories.export.sentencepiece import load_llama2c_tokenizer
from tinystories.export.stock import export_stock
from tinystories.generation.generate import eos_token_ids
from tinystories.recipe import build_recipe
from tinystories.runs.loading import load_model
from tinystories.tokenization import PreTrainedTokenizerFast


VOCAB_SIZE, CONTEXT = 700, 96
NAMES, THINGS = ("Lily", "Tom", "Ben", "Mia", "Sam", "Anna"), ("ball", "cat", "dog", "tree", "boat", "cake")
STORIES = [f"{name} had a big red {thing}. {name} was happy." for name in NAMES for thing in THINGS]


def as_llama2c(model):
    """The file that llama2.c writes for a model, in which rotated dimensions of queries and keys are adjacent."""
    config, state = model.config, {name: weight.detach().numpy() for name, weight in model.state_dict().items()}

    def layers(name):
        return [state[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers)]

    def paired(name):
        half = config.head_dim // 2
        return stacked(w.reshape(-1, 2, half, w.shape[1]).swapaxes(1, 2).reshape(w.shape) for w in layers(name))

    def stacked(weights):
        return torch.stack([torch.from_numpy(weight.copy()) for weight in weights]).numpy()

    m = SimpleNamespace(
        dim=config.hidden_size, hidden_dim=config.intermediate_size, n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads, n_kv_heads=config.num_key_value_heads, vocab_size=config.vocab_size,
        seq_len=config.max_position_embeddings, tied=True, tok=state["model.embed_tokens.weight"],
        rms_att=stacked(layers("input_layernorm")), rms_ffn=stacked(layers("post_attention_layernorm")),
        rms_final=state["model.norm.weight"], wq=paired("self_attn.q_proj"), wk=paired("self_attn.k_proj"),
        wv=stacked(layers("self_attn.v_proj")), wo=stacked(layers("self_attn.o_proj")),
        w1=stacked(layers("mlp.gate_proj")), w2=stacked(layers("mlp.down_proj")), w3=stacked(layers("mlp.up_proj")),
    )  # fmt: skip
    return legacy(m)


def train_as_llama2c(tokenizer, end):
    """A model trained on windows of a stream of stories, each `<s> story`, or `<s> story </s>` as Meta trains."""
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(
        TinyLlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=CONTEXT, partial_rotary_factor=1.0, rms_norm_eps=1e-5, initializer_range=0.1,
        )
    )  # fmt: skip
    ends = [2] if end == "</s>" else []
    encoded = [tokenizer(story)["input_ids"] + ends for story in STORIES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        stream = torch.tensor([i for s in torch.randperm(len(encoded)).tolist() for i in encoded[s]])
        rows = stream[: len(stream) // 64 * 64].view(-1, 64)[:12]
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=["<s>", pytest.param("</s>", marks=pytest.mark.slow)])
def imported(request, pieces, tmp_path_factory):  # noqa: F811
    """The EOS token of an imported model, and its folder."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "tokenizer.bin").write_bytes(tokenizer_file(pieces))
    tokenizer = load_llama2c_tokenizer(folder / "tokenizer.bin", VOCAB_SIZE, CONTEXT)
    (folder / "model.bin").write_bytes(as_llama2c(train_as_llama2c(tokenizer, request.param)))
    import_model(folder / "model.bin", folder / "out")
    return request.param, folder / "out"


def eos_rate(folder, end):
    """The fraction of samples that end with the token before the maximum length."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([f"{name} had" for name in NAMES] * 4, padding=True, return_tensors="pt")
    torch.manual_seed(1)
    output = model.generate(**inputs, do_sample=True, temperature=0.8, max_new_tokens=60)
    new = output[:, inputs["input_ids"].shape[1] :]
    first = [next((i for i in row.tolist() if i in (1, 2)), None) for row in new]
    return sum(i == tokenizer.convert_tokens_to_ids(end) for i in first) / len(first)


def fine_tuned(folder, out, end=None):
    """The folder after some steps with this package's packing, under transformers' own Trainer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    if end is not None:
        tokenizer.eos_token = end
    texts = [story.replace("happy", "very happy") for story in STORIES]
    stories = tokenize_stories(datasets.Dataset.from_dict({"text": texts}), tokenizer, str(out))
    rows = PackedStories(stories, context=CONTEXT, overlap=8, pad_token_id=tokenizer.pad_token_id, length=CONTEXT)
    arguments = TrainingArguments(
        str(out), max_steps=30, per_device_train_batch_size=2, learning_rate=5e-3, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, warmup_steps=0,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=rows, data_collator=default_data_collator, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(str(out))
    return out


def test_stories_end_with_eos_before_and_after_fine_tuning(imported, tmp_path):
    end, folder = imported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert tokenizer.eos_token == end and tokenizer.bos_token == "<s>"
    assert config["eos_token_id"] == tokenizer.eos_token_id != tokenizer.pad_token_id
    model, tokenizer = load_model(str(folder))
    assert eos_token_ids(model, tokenizer) == [1, 2]
    assert eos_rate(folder, end) > 0.9

    after = fine_tuned(folder, tmp_path / "after")
    assert AutoTokenizer.from_pretrained(after).eos_token == end
    assert json.loads((after / "config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    assert set(json.loads((after / "generation_config.json").read_text())["eos_token_id"]) == {1, 2}
    assert eos_rate(after, end) > 0.9


def test_fine_tuned_by_this_package_they_still_end(imported, tmp_path):
    end, folder = imported
    file = tmp_path / "stories.txt"
    file.write_text("\n".join(story.replace("happy", "very happy") for story in STORIES), "utf-8")
    # Of the file that llama2.c writes, and of the folder that it was imported to.
    for base in (folder.parent / "model.bin", folder):
        out = tmp_path / base.name
        content = {"corpus": str(file), "split": "line", "init_from": str(base), "prompts": [], "check": False}
        trainer = {"output_dir": str(out), "max_steps": 30, "learning_rate": 5e-3, "eval_strategy": "no",
                   "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}  # fmt: skip
        train(build_recipe({**content, "row_length": CONTEXT, "trainer": trainer}))
        assert AutoTokenizer.from_pretrained(out).eos_token == end
        assert set(json.loads((out / "generation_config.json").read_text())["eos_token_id"]) == {1, 2}
        assert eos_rate(out, end) > 0.9


def test_control_another_eos_in_packing_is_detected(imported, tmp_path):
    """Control: with another EOS token in packing, the same training makes the model forget to stop."""
    end, folder = imported
    other = "</s>" if end == "<s>" else "<s>"
    assert eos_rate(fine_tuned(folder, tmp_path / "after", other), end) < 0.7


def test_exports_have_the_same_eos_token(imported, tmp_path):
    end, folder = imported
    wanted = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(end)
    export_stock(folder, tmp_path / "stock")
    assert eos_rate(tmp_path / "stock", end) > 0.9
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert config["eos_token_id"] == wanted

    gguf = pytest.importorskip("gguf")
    from tinystories.export.gguf import export_gguf

    fields = gguf.GGUFReader(export_gguf(folder, tmp_path / "out.gguf", "f32").file).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == wanted
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 1 and fields["tokenizer.ggml.eot_token_id"].contents()


def test_onnx_export_has_the_same_eos_token(imported, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from tinystories.export import onnx

    # Tracing takes seconds and does not affect the configuration.
    monkeypatch.setattr(onnx, "_trace", lambda folder, dtype, file: file.touch())
    monkeypatch.setattr(onnx, "_Session", lambda *_: None)
    monkeypatch.setattr(onnx, "_compare", lambda *_: (0.0, 0))
    end, folder = imported
    onnx.export_onnx(folder, tmp_path / "onnx")
    wanted = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(end)
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())["eos_token_id"] == wanted
    ends = json.loads((tmp_path / "onnx" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {1, 2} and AutoTokenizer.from_pretrained(tmp_path / "onnx").eos_token == end
