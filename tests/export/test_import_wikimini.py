"""Import of WikiMini checkpoints, compared with a plain torch implementation that is trained and saved as that project
does; code in a checkpoint is never run."""

import collections
import json
import math
import os
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn.functional import cross_entropy, silu
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.likelihood import loss_ahead, start_tokens
from tinystories.export.import_model import import_model
from tinystories.export.wikimini import load_wikimini, load_wikimini_tokenizer
from tinystories.utils.errors import UserError


VOCAB_SIZE = 320
CONFIG = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "d_ffn": 80,
    "max_seq_len": 64,
    "dropout": 0.1,
    "rope_percentage": 0.5,
    "rope_base": 10000,
    "rms_norm_eps": 1e-6,
    "tie_embeddings": True,
    "use_flash_attention": True,
}


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).uniform_(0.5, 1.5))
        self.eps = eps

    def forward(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, width = config["n_heads"], config["d_model"]
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.turned = int(width // self.heads * config["rope_percentage"])
        self.base = config["rope_base"]

    def rotate(self, x):
        """Rotate dimension i of the first `turned` dimensions of a head with dimension i + turned / 2."""
        half = self.turned // 2
        angles = torch.outer(torch.arange(x.shape[2]).float(), self.base ** (-torch.arange(half) * 2 / self.turned))
        a, b, rest = x[..., :half], x[..., half : self.turned], x[..., self.turned :]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            project(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = self.rotate(q) @ self.rotate(k).transpose(2, 3) / math.sqrt(q.shape[-1])
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        return self.o_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.w_gate, self.w_up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.w_down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.w_down(silu(self.w_gate(x)) * self.w_up(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config["d_model"], config["rms_norm_eps"]
        self.attn_norm, self.ffn_norm = Norm(width, eps), Norm(width, eps)
        self.attention = Attention(config)
        self.ffn = FeedForward(width, math.ceil(config["d_ffn"] / 256) * 256)

    def forward(self, x):
        x = x + self.attention(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class WikiMini(nn.Module):
    def __init__(self, config, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.token_embedding = nn.Embedding(config["vocab_size"], config["d_model"])
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["n_layers"]))
        self.final_norm = Norm(config["d_model"], config["rms_norm_eps"])
        self.lm_head = nn.Linear(config["d_model"], config["vocab_size"], bias=False)
        if config["tie_embeddings"]:
            self.lm_head.weight = self.token_embedding.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)

    def forward(self, ids):
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.final_norm(x))


def checkpoint(model, config=CONFIG):
    """A checkpoint as the training loop saves it, with the state of an optimizer and numpy numbers."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)
    schedulers = [
        torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=2),
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, eta_min=5e-5),
    ]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, milestones=[2])
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    scheduler.step()
    model.load_state_dict(weights)
    return {
        "epoch": 0,
        "global_step": 500,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "best_val_loss": np.mean([2.1, 2.2]),
        "best_val_ppl": np.exp(np.float32(2.15)),
        "best_checkpoint_step": np.int64(500),
        "metrics": {"val_loss": np.mean([2.1, 2.2]), "improved": np.bool_(True)},
        "config": {"model": dict(config), "data": {"max_seq_len": 64}, "training": {"batch_size": 64}},
    }


@pytest.fixture
def saved(tmp_path):
    """A function that saves a checkpoint: `saved(content)`."""

    def save(content):
        torch.save(content, tmp_path / "model.pth")
        return tmp_path / "model.pth"

    return save


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A tokenizer as that project trains and saves it, including truncation and padding."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|padding|>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        sample_stories(150),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.enable_padding(pad_id=1, pad_token="<|padding|>", length=60)
    backend.enable_truncation(max_length=12)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCAB_SIZE, "model_type": "BPE"}))
    return folder


def random_ids(length=40):
    return torch.randint(0, VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(1))


def same_logits(ours, theirs, atol=1e-5):
    ids = random_ids()
    with torch.no_grad():
        expected = theirs(ids)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(ids).logits, expected, atol=atol, rtol=0)


# --- The same model


def test_logits_match_the_checkpoint(saved):
    theirs = WikiMini(CONFIG)
    ours = load_wikimini(saved(checkpoint(theirs)))
    assert type(ours) is TinyLlamaForCausalLM and not ours.training
    assert ours.config.intermediate_size == 256 and ours.config.max_position_embeddings == 64
    assert ours.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())
    same_logits(ours, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_percentage": 1.0},
        {"rope_percentage": 0.25, "d_model": 64},
        {"rope_base": 500},
        {"rms_norm_eps": 1e-2},
        {"tie_embeddings": False},
        {"n_layers": 1, "n_heads": 1},
        {"n_heads": 8, "d_ffn": 257},
    ],
    ids=str,
)
def test_other_settings(changes, saved):
    config = {**CONFIG, **changes}
    theirs = WikiMini(config)
    same_logits(load_wikimini(saved(checkpoint(theirs, config))), theirs)


def test_control_misread_setting_is_detected(saved):
    """Control: with each of these settings, the difference is far above the tolerance."""
    theirs = WikiMini(CONFIG)
    for changes in ({"rope_percentage": 1.0}, {"n_heads": 2}, {"rope_base": 500}, {"rms_norm_eps": 1e-2}):
        ours = load_wikimini(saved(checkpoint(theirs, {**CONFIG, **changes})))
        with pytest.raises(AssertionError):
            same_logits(ours, theirs, atol=1e-3)


def prefixed(*prefixes):
    return lambda state: {"".join(prefixes) + name: tensor for name, tensor in state.items()}


def without_head(state):
    return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def with_buffers(state):
    tables = {
        f"blocks.{i}.attention.rope.freqs_{part}": torch.ones(64, 4) for i in range(2) for part in ("cos", "sin")
    }
    return state | tables | {"blocks.0.attention.cached_mask_size": torch.tensor(0)}


def norm_named(name):
    return lambda state: {key.replace("final_norm", name): tensor for key, tensor in state.items()}


def separate_head(state):
    return state | {"lm_head.weight": state["token_embedding.weight"].clone()}


@pytest.mark.parametrize(
    "change",
    [
        prefixed("_orig_mod."),
        prefixed("module."),
        prefixed("_orig_mod.", "module."),
        without_head,
        with_buffers,
        separate_head,
        norm_named("norm"),
        norm_named("ln_f"),
        collections.OrderedDict,
    ],
    ids=["compiled", "parallel", "both", "no head", "buffers", "a head of its own", "norm", "ln_f", "ordered"],
)
def test_wrapped_weight_names_are_accepted(change, saved):
    theirs = WikiMini(CONFIG)
    content = checkpoint(theirs)
    content["model_state_dict"] = change(content["model_state_dict"])
    same_logits(load_wikimini(saved(content)), theirs)


def test_final_norm_under_another_name_is_logged(saved, caplog):
    content = checkpoint(WikiMini(CONFIG))
    load_wikimini(saved(content))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    content["model_state_dict"] = norm_named("ln_f")(content["model_state_dict"])
    load_wikimini(saved(content))
    assert "taken from ln_f.weight" in caplog.text


def test_flat_config_numbers_as_text_and_defaults(saved):
    theirs = WikiMini(CONFIG)
    content = checkpoint(theirs) | {"config": {"n_heads": "4", "rms_norm_eps": "1e-6", "rope_base": 1e4}}
    ours = load_wikimini(saved(content))
    assert ours.config.rms_norm_eps == 1e-6 and ours.config.max_position_embeddings == 2048
    same_logits(ours, theirs)


@pytest.mark.parametrize("tables", ["freqs", "cached", "inv_freq"])
def test_heads_and_positions_are_inferred_from_rotary_tables(tables, saved):
    theirs = WikiMini(CONFIG)
    content = checkpoint(theirs)
    for key in ("n_heads", "max_seq_len", "vocab_size", "d_model", "n_layers", "d_ffn", "tie_embeddings"):
        content["config"]["model"].pop(key)
    shapes = {
        "freqs": {"freqs_cos": (64, 4), "freqs_sin": (64, 4)},
        "cached": {"cos_cached": (1, 64, 1, 4), "sin_cached": (1, 64, 1, 4)},
        "inv_freq": {"inv_freq": (2,)},
    }
    for i in range(2):
        for name, shape in shapes[tables].items():
            content["model_state_dict"][f"blocks.{i}.attention.rope.{name}"] = torch.ones(shape)
    ours = load_wikimini(saved(content))
    assert ours.config.num_attention_heads == 4
    assert ours.config.max_position_embeddings == (2048 if tables == "inv_freq" else 64)
    same_logits(ours, theirs)


@pytest.mark.parametrize("said", [False, "false", 0, None])
def test_untied_head_has_several_spellings(said, saved):
    config = {**CONFIG, "tie_embeddings": False}
    theirs = WikiMini(config)
    content = checkpoint(theirs, {**config, "tie_embeddings": said})
    same_logits(load_wikimini(saved(content)), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_rotary_frequencies_are_not_rounded(dtype, saved):
    theirs = WikiMini(CONFIG).to(dtype)
    ours = load_wikimini(saved({"model_state_dict": theirs.state_dict(), "config": CONFIG}))
    assert ours.dtype == dtype and ours.model.rotary_emb.inv_freq.dtype == torch.float32
    same_logits(ours.float(), theirs.float())


# --- Code is not run


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def test_file_with_code_is_refused_and_not_run(saved, tmp_path, tokenizer_folder, capsys):
    content = checkpoint(WikiMini(CONFIG))
    victim = tmp_path / "was-run"
    path = saved(content | {"extra": Code(str(victim))})
    assert main(["import", str(path), str(tmp_path / "out"), "--tokenizer", str(tokenizer_folder)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "can run arbitrary code" in said[0] and "Path" in said[0]
    assert not victim.exists() and not (tmp_path / "out").exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the control: loading it without care does run it"

    with pytest.raises(UserError, match=r"would load .*system.*not loaded"):
        os_system = type("Other", (), {"__reduce__": lambda self: (os.system, (f"touch {victim}2",))})
        load_wikimini(saved(content | {"extra": os_system()}))
    assert not (tmp_path / "was-run2").exists()


def test_numpy_numbers_are_read_and_nothing_else_of_numpy(saved):
    content = checkpoint(WikiMini(CONFIG))
    path = saved(content)
    with pytest.raises(Exception, match="numpy"):
        torch.load(path, weights_only=True)  # why the importer adds them
    before = set(torch.serialization.get_safe_globals())
    load_wikimini(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(UserError, match="numpy type O8"):
        load_wikimini(saved(content | {"extra": np.array([Code("x")], dtype=object).dtype}))
    with pytest.raises(UserError, match="numpy"):
        load_wikimini(saved(content | {"extra": np.ones(3)}))
    with pytest.raises(UserError, match="numpy type U"):
        load_wikimini(saved(content | {"extra": np.str_("text")}))


# --- Damaged files and files of other formats


def edited(change):
    content = checkpoint(WikiMini(CONFIG))
    change(content, content["model_state_dict"], content["config"]["model"])
    return content


def cases():
    def case(name, change, words):
        return pytest.param(change, words, id=name)

    huge = torch.zeros(1).expand(10**9, 32)
    attention = "blocks.1.attention.q_proj.weight"
    yield case(
        "no state dict",
        lambda c, s, m: c.pop("model_state_dict"),
        "weights as `model_state_dict` and the settings as `config`, but has only epoch, global",
    )
    yield case("no config", lambda c, s, m: c.pop("config"), "has no `config` next to")
    yield case("no heads", lambda c, s, m: m.pop("n_heads"), "no `n_heads` in its config.*add the number")
    yield case("heads of none", lambda c, s, m: m.update(n_heads=None), "no `n_heads` in its config")
    yield case("a config that is text", lambda c, s, m: c.update(config="n_heads: 4"), "a `config` that is a str")
    yield case("a config that is a list", lambda c, s, m: c.update(config=[4]), "a `config` that is a list")
    yield case("tied or not", lambda c, s, m: m.update(tie_embeddings="maybe"), "must be true or false")
    yield case("layers in words", lambda c, s, m: m.update(n_layers="two"), "`n_layers` in its config must be a")
    yield case("infinite eps", lambda c, s, m: m.update(rms_norm_eps=math.inf), "rms_norm_eps")
    yield case("negative eps", lambda c, s, m: m.update(rms_norm_eps=-1.0), "rms_norm_eps")
    yield case("negative base", lambda c, s, m: m.update(rope_base=-5), "rope_theta|rope_base")
    yield case("more than a head", lambda c, s, m: m.update(rope_percentage=1.5), "partial_rotary_factor")
    yield case("an odd part", lambda c, s, m: m.update(rope_percentage=0.4), "partial_rotary_factor")
    yield case("list", lambda c, s, m: m.update(max_seq_len=[64]), "`max_seq_len` in its config must be a number")
    yield case("heads do not divide", lambda c, s, m: m.update(n_heads=5), "hidden_size.*multiple")
    yield case("no heads at all", lambda c, s, m: m.update(n_heads=0), "num_attention_heads.*at least 1")
    yield case("heads in words", lambda c, s, m: m.update(n_heads="four"), "`n_heads` in its config must be a number")
    yield case("half a head", lambda c, s, m: m.update(n_heads=1.5), "`n_heads` in its config must be a number")
    yield case("no rotation", lambda c, s, m: m.update(rope_percentage=0.0), "partial_rotary_factor")
    yield case("no number", lambda c, s, m: m.update(rope_base=math.nan), "`rope_base` in its config must be a number")
    yield case("no length", lambda c, s, m: m.update(max_seq_len=-3), "max_position_embeddings.*at least 1")
    yield case("width", lambda c, s, m: m.update(d_model=64), "config has d_model 64, its weights 32")
    yield case("vocabulary", lambda c, s, m: m.update(vocab_size=10_000), "config has vocab_size 10,000")
    yield case("layers", lambda c, s, m: m.update(n_layers=3), "config has n_layers 3, its weights 2")
    yield case("untied without a head", lambda c, s, m: (m.update(tie_embeddings=False), s.pop("lm_head.weight")),
                "no lm_head.weight")  # fmt: skip
    yield case("a head that differs", lambda c, s, m: s.update({"lm_head.weight": torch.ones(VOCAB_SIZE, 32)}),
                "lm_head.weight differs")  # fmt: skip
    yield case("no embedding", lambda c, s, m: s.pop("token_embedding.weight"), "no token_embedding.weight")
    yield case("a weight less", lambda c, s, m: s.pop(attention), f"no {attention}")
    yield case("a norm less", lambda c, s, m: s.pop("final_norm.weight"), "has none of final_norm, norm, ln_f")
    yield case("a norm more", lambda c, s, m: s.update({"norm.weight": torch.ones(32)}), "has final_norm and norm")
    yield case(
        "a weight more",
        lambda c, s, m: s.update({"blocks.0.extra.weight": torch.ones(2)}),
        "that TinyLlama does not have",
    )
    yield case(
        "a bias",
        lambda c, s, m: s.update({"blocks.0.attention.q_proj.bias": torch.ones(32)}),
        "that TinyLlama does not have",
    )
    yield case("a gap", lambda c, s, m: s.update({"blocks.7.attn_norm.weight": torch.ones(32)}), "without a gap")
    yield case(
        "many blocks",
        lambda c, s, m: s.update({f"blocks.{'9' * 5000}.x": torch.ones(2)}),
        "that TinyLlama does not have",
    )
    yield case("twice", lambda c, s, m: s.update({f"module.{attention}": s[attention]}), "twice")
    yield case("shape", lambda c, s, m: s.update({attention: torch.ones(32, 16)}), r"\[32, 16\].*\[32, 32\]")
    yield case("one dimension", lambda c, s, m: s.update({"token_embedding.weight": torch.ones(5)}), "not a matrix")
    yield case("not a number", lambda c, s, m: s[attention].view(-1)[5].fill_(math.nan), "not finite")
    yield case("integers", lambda c, s, m: s.update({attention: s[attention].long()}), "is int64")
    yield case("a list", lambda c, s, m: s.update({attention: [1.0]}), "not a plain tensor")
    yield case("sparse", lambda c, s, m: s.update({attention: s[attention].to_sparse()}), "not a plain tensor")
    yield case("no memory in the file", lambda c, s, m: s.update({"token_embedding.weight": huge}), "declares 128,")


@pytest.mark.parametrize("change, words", cases())
def test_invalid_checkpoint_is_one_line(change, words, saved):
    with pytest.raises(UserError, match=words) as caught:
        load_wikimini(saved(edited(change)))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_damaged_file_is_one_line(saved, tmp_path, tokenizer_folder):
    path = saved(checkpoint(WikiMini(CONFIG)))
    whole = path.read_bytes()
    middle = len(whole) // 2
    with zipfile.ZipFile(path) as archive:
        names = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(f"model/{name}", content)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("notes.txt", "a zip of something else")

    damaged = {
        "empty": b"",
        "short": whole[:3],
        "half": whole[:middle],
        "a byte less": whole[:-1],
        "a byte more": whole + b"\0",
        "much more": whole + bytes(100_000),
        "twice": whole + b"PK\x05\x06" + bytes(18),
        "something in front": b"x" + whole,
        "a flipped bit": whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :],
        "compressed": (tmp_path / "packed.pth").read_bytes(),
        "another zip": (tmp_path / "other.pth").read_bytes(),
        "a pickle": b"\x80\x02}q\x00.",
        "a zip's beginning": b"PK\x03\x04" + bytes(300),
        "text": b"Once upon a time\n" * 50,
    }
    for name, content in damaged.items():
        file = tmp_path / "damaged" / "model.pth"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        for load in (load_wikimini, lambda path: import_model(path, tmp_path / "out", tokenizer_folder)):
            with pytest.raises(UserError) as caught:
                load(file)
            assert "\n" not in str(caught.value) and str(file) in str(caught.value), name
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no file"):
        load_wikimini(tmp_path / "none.pth")


def test_plain_pickle_is_refused(tmp_path):
    torch.save(checkpoint(WikiMini(CONFIG)), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="is not a zip file"):
        load_wikimini(tmp_path / "old.pth")


# --- The tokenizer and the folder


def test_truncation_and_padding_of_the_tokenizer_are_removed(tokenizer_folder, tmp_path):
    tokenizer = load_wikimini_tokenizer(tokenizer_folder, 64)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    story = next(sample_stories(1))
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    assert plain.encode(story).ids[12:] == [1] * 48, "the control: it is cut to 12 tokens and padded to 60"
    plain.no_truncation()
    plain.no_padding()
    for words in (tokenizer, again):
        ids = words(story, verbose=False)["input_ids"]
        assert ids == plain.encode(story).ids and words.decode(ids) == story
        assert (words.bos_token_id, words.eos_token_id, words.pad_token_id, words.unk_token_id) == (0, 0, 1, 2)
        assert words.model_max_length == 64 and len(words) == VOCAB_SIZE
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["truncation"] is None


def test_unusable_tokenizer_is_one_line(tokenizer_folder, saved, tmp_path):
    path = saved(checkpoint(WikiMini(CONFIG)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[])).save(str(tmp_path / "padless.json"))
    large = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    large.add_tokens(["another"])
    large.save(str(tmp_path / "large.json"))
    for tokenizer, words in {
        tmp_path / "nowhere": "no tokenizer.json at",
        tmp_path: f"no tokenizer.json in {tmp_path}",
        tmp_path / "broken": "cannot be loaded",
        tmp_path / "padless.json": "has no pad_token",
        tmp_path / "large.json": "use the tokenizer that the model was trained with",
        None: "--tokenizer",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            import_model(path, tmp_path / "out", tokenizer)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def trained(shift, tokenizer_folder):
    """A model that has memorised some beginnings of stories, `shift` tokens ahead; 2 means labels shifted twice."""
    config = {**CONFIG, "max_seq_len": 48}
    model = WikiMini(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.ones_(parameter)
    tokenizer = load_wikimini_tokenizer(tokenizer_folder, 48)
    rows = torch.tensor(tokenizer(list(sample_stories(12)), truncation=True)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = cross_entropy(model(rows)[:, :-shift].flatten(0, 1), rows[:, shift:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return checkpoint(model, config)


@pytest.mark.parametrize("shift", [1, 2])
def test_model_of_labels_shifted_twice_is_reported(shift, saved, tokenizer_folder, tmp_path, capsys):
    path, out = saved(trained(shift, tokenizer_folder)), tmp_path / "out"
    assert main(["import", str(path), str(out), "--tokenizer", str(tokenizer_folder)]) == 0
    said = capsys.readouterr()
    assert ("shifted twice" in said.err) == (shift == 2)
    assert "WikiMini" in said.out and "nats per token" in said.out

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 0, 1)
    assert model.generation_config.do_sample and model.generation_config.repetition_penalty == 1.2
    stories = list(sample_stories(12))
    losses = [loss_ahead(model, tokenizer, stories, distance) for distance in (1, 2)]
    assert (losses[0] < losses[1]) == (shift == 1) and abs(losses[0] - losses[1]) > 1.0
    assert tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=4)[0])


def test_untrained_model_is_not_reported_as_shifted(saved, tokenizer_folder, tmp_path, capsys):
    for seed in range(3):
        model = WikiMini(CONFIG, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.1 if parameter.ndim > 1 else 1.0)
        path = saved(checkpoint(model))
        assert not import_model(path, tmp_path / f"out{seed}", tokenizer_folder).shifted_twice


# --- Loss several tokens ahead


def test_loss_ahead(saved, tokenizer_folder):
    theirs = WikiMini(CONFIG)
    model = load_wikimini(saved(checkpoint(theirs))).train()
    tokenizer = load_wikimini_tokenizer(tokenizer_folder, 64)
    start = start_tokens(model, tokenizer)
    assert start == [tokenizer.bos_token_id]
    ids = torch.tensor([start + tokenizer("Once upon a time there was a cat.")["input_ids"]])
    assert loss_ahead(model, tokenizer, ["Once upon a time there was a cat."]) == pytest.approx(
        model.eval()(ids, labels=ids).loss.item(), abs=1e-5
    )
    texts = ["Once upon a time there was a cat.", "Hi", next(sample_stories(1))]
    for distance in (1, 2, 5):
        nats, count = 0.0, 0
        for text in texts:
            row = (start + tokenizer(text, verbose=False)["input_ids"])[:64]
            logits = theirs(torch.tensor([row]))[0].log_softmax(-1)
            for t in range(len(row) - distance):
                nats -= logits[t, row[t + distance]].item()
                count += 1
        assert loss_ahead(model, tokenizer, texts, distance) == pytest.approx(nats / count, abs=1e-4)
    assert loss_ahead(model.train(), tokenizer, texts) > 0 and model.training
    with pytest.raises(ValueError, match="No text has more than 2 tokens"):
        loss_ahead(model, tokenizer, ["", "a"], 2)
    with pytest.raises(ValueError, match="at least 1"):
        loss_ahead(model, tokenizer, texts, 0)
