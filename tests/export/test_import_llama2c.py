"""Import of llama2.c models: files are written here and compared with a numpy implementation of llama2.c."""

import json
import math
import random
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.export.import_model import import_model
from tinystories.export.llama2c import load_llama2c
from tinystories.export.sentencepiece import load_llama2c_tokenizer
from tinystories.tokenization import PreTrainedTokenizerFast
from tinystories.utils.errors import UserError


VOCAB_SIZE = 700
SHAPES = {
    "grouped heads": {},
    "one key/value head each": {"n_kv_heads": 4},
    "one key/value head": {"n_kv_heads": 1},
    "untied": {"tied": False},
    "one layer, narrow": {"dim": 8, "hidden_dim": 6, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "group": 2},
}
MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


# --- A model in numpy, and its files as llama2.c's export writes them.


def make_model(seed=0, **changes):
    sizes = {
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": VOCAB_SIZE,
        "seq_len": 96,
        "tied": True,
        "group": 16,
        **changes,
    }
    m = SimpleNamespace(**sizes)
    kv_dim = m.dim // m.n_heads * m.n_kv_heads
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(0, 0.2, shape).astype(np.float32)

    def norm(*shape):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    m.tok = normal(m.vocab_size, m.dim)
    m.rms_att, m.rms_ffn = norm(m.n_layers, m.dim), norm(m.n_layers, m.dim)
    m.rms_final = norm(m.dim)
    m.wq, m.wo = normal(m.n_layers, m.dim, m.dim), normal(m.n_layers, m.dim, m.dim)
    m.wk, m.wv = normal(m.n_layers, kv_dim, m.dim), normal(m.n_layers, kv_dim, m.dim)
    m.w1, m.w3 = normal(m.n_layers, m.hidden_dim, m.dim), normal(m.n_layers, m.hidden_dim, m.dim)
    m.w2 = normal(m.n_layers, m.dim, m.hidden_dim)
    m.wcls = m.tok if m.tied else normal(m.vocab_size, m.dim)
    return m


def rmsnorm(x, weight):
    return weight * x / np.sqrt(np.mean(x * x) + 1e-5)


def forward(m, ids):
    """Logits `[len(ids), vocab_size]`, one position at a time with a cache, rotating adjacent dimensions."""
    size = m.dim // m.n_heads
    group = m.n_heads // m.n_kv_heads
    keys = [[] for _ in range(m.n_layers)]
    values = [[] for _ in range(m.n_layers)]
    logits = []

    def rotate(vector, position):
        turned = vector.copy()
        for i in range(0, len(vector), 2):
            angle = position / 10000.0 ** ((i % size) / size)
            turned[i] = vector[i] * math.cos(angle) - vector[i + 1] * math.sin(angle)
            turned[i + 1] = vector[i] * math.sin(angle) + vector[i + 1] * math.cos(angle)
        return turned

    for position, token in enumerate(ids):
        x = m.tok[token].astype(np.float64)
        for layer in range(m.n_layers):
            h = rmsnorm(x, m.rms_att[layer])
            q = rotate(m.wq[layer] @ h, position)
            keys[layer].append(rotate(m.wk[layer] @ h, position))
            values[layer].append(m.wv[layer] @ h)
            out = np.zeros(m.dim)
            for head in range(m.n_heads):
                mine, theirs = slice(head * size, (head + 1) * size), head // group * size
                theirs = slice(theirs, theirs + size)
                scores = np.array([q[mine] @ key[theirs] for key in keys[layer]]) / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[mine] = sum(w * value[theirs] for w, value in zip(weights, values[layer], strict=True))
            x = x + m.wo[layer] @ out
            h = rmsnorm(x, m.rms_ffn[layer])
            gate = m.w1[layer] @ h
            x = x + m.w2[layer] @ (gate / (1 + np.exp(-gate)) * (m.w3[layer] @ h))
        logits.append(m.wcls @ rmsnorm(x, m.rms_final))
    return np.array(logits)


def header(m, vocab_size=None):
    vocab_size = m.vocab_size if vocab_size is None else vocab_size
    return struct.pack("<7i", m.dim, m.hidden_dim, m.n_layers, m.n_heads, m.n_kv_heads, vocab_size, m.seq_len)


def rotary_table(m, theta=10000.0):
    size = m.dim // m.n_heads
    angles = np.outer(np.arange(m.seq_len), 1.0 / theta ** (np.arange(0, size, 2) / size))
    return np.cos(angles).astype("<f4").tobytes() + np.sin(angles).astype("<f4").tobytes()


def legacy(m, table=None):
    parts = [m.tok, m.rms_att, m.wq, m.wk, m.wv, m.wo, m.rms_ffn, m.w1, m.w2, m.w3, m.rms_final]
    content = header(m, m.vocab_size if m.tied else -m.vocab_size) + b"".join(part.tobytes() for part in parts)
    return content + (rotary_table(m) if table is None else table) + (b"" if m.tied else m.wcls.tobytes())


def version_1(m):
    content = struct.pack("<Ii", 0x616B3432, 1) + header(m) + struct.pack("<B", m.tied)
    content = content.ljust(256, b"\0")
    for part in (m.rms_att, m.rms_ffn, m.rms_final, m.tok, *(getattr(m, name) for name in MATRICES)):
        content += part.tobytes()
    return content + (b"" if m.tied else m.wcls.tobytes())


def version_2(m):
    """The file; the weights of `m` are replaced by the rounded ones in it."""
    content = struct.pack("<Ii", 0x616B3432, 2) + header(m) + struct.pack("<Bi", m.tied, m.group)
    content = content.ljust(256, b"\0") + m.rms_att.tobytes() + m.rms_ffn.tobytes() + m.rms_final.tobytes()

    def quantised(matrix):
        groups = matrix.reshape(-1, m.group)
        scales = np.abs(groups).max(axis=1) / np.float32(127)
        numbers = np.round(groups / scales[:, None]).astype(np.int8)
        matrix[...] = (numbers * scales[:, None]).reshape(matrix.shape)
        return numbers.tobytes() + scales.astype("<f4").tobytes()

    content += quantised(m.tok)
    for name in MATRICES:
        for matrix in getattr(m, name):
            content += quantised(matrix)
    return content + (b"" if m.tied else quantised(m.wcls))


FORMATS = {"legacy": legacy, "version 1": version_1, "version 2": version_2}


# --- A tokenizer as SentencePiece would train it, and llama2.c's way to use it.


@pytest.fixture(scope="module")
def pieces():
    """`[(bytes, score)]`: special tokens, bytes, merged pieces in the order they were learnt, single characters."""
    stories = list(sample_stories(150))
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    letters = sorted({*"".join(stories), *" “”’é"} - {"\n", "q"})
    learner.train_from_iterator(
        [" " + story for story in stories],
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - 259, initial_alphabet=letters, limit_alphabet=len(letters), show_progress=False
        ),
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    made = ["".join(pair) for pair in merges if "\n" not in "".join(pair) and "q" not in "".join(pair)]
    made = list(dict.fromkeys(made))[: VOCAB_SIZE - 259 - len(letters)]
    found = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    found += [(b"<0x%02X>" % byte, 0.0) for byte in range(256)]
    found += [(piece.encode(), -float(rank)) for rank, piece in enumerate(made + letters)]
    assert len(made) > 300 and len(found) == VOCAB_SIZE
    return found


def tokenizer_file(pieces, longest=None):
    content = struct.pack("<i", longest or max(len(piece) for piece, _ in pieces))
    return content + b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces)


def encode(pieces, text):
    """llama2.c's encoding: characters, or bytes for unknown ones; then the best pair is merged repeatedly."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    tokens = [1]
    if text:
        tokens.append(ids[b" "])
    for character in text:
        known = ids.get(character.encode())
        tokens += [known] if known is not None else [byte + 3 for byte in character.encode()]
    while True:
        best_score, best = -1e10, None
        for i in range(len(tokens) - 1):
            union = ids.get(pieces[tokens[i]][0] + pieces[tokens[i + 1]][0])
            if union is not None and pieces[union][1] > best_score:
                best_score, best = pieces[union][1], (i, union)
        if best is None:
            return tokens
        tokens[best[0] : best[0] + 2] = [best[1]]


def decode(pieces, tokens):
    """llama2.c's decoding: after `<s>` a piece loses its space, and names of bytes are replaced by the bytes."""
    out = b""
    for before, token in zip(tokens, tokens[1:], strict=False):
        piece = pieces[token][0]
        if before == 1 and piece.startswith(b" "):
            piece = piece[1:]
        out += bytes([token - 3]) if 3 <= token < 259 else piece
    return out.decode()


def strange_strings(pieces, count):
    chance = random.Random(0)
    stories = list(sample_stories(60, seed=1))
    whole = [piece.decode() for piece, _ in pieces[259:]]
    letters = [piece for piece in whole if len(piece) == 1]

    def one():
        kind = chance.randrange(6)
        if kind == 0:
            story = chance.choice(stories)
            begin = chance.randrange(len(story))
            return story[begin : begin + chance.randrange(1, 80)]
        if kind == 1:
            return "".join(chance.choice(whole) for _ in range(chance.randrange(1, 12)))
        if kind == 2:
            few = [chance.choice(whole) for _ in range(2)]
            return "".join(chance.choice([*few, few[0][0], few[1][-1], " "]) for _ in range(chance.randrange(1, 16)))
        if kind == 3:
            return "".join(
                chance.choice(" \n\t\r\0qé😀日👩‍👧▁<0x>A“\u00a0\u200d\U0010ffff")
                for _ in range(chance.randrange(1, 20))
            )
        if kind == 4:
            return chance.choice(letters) * chance.randrange(1, 40)
        return "".join(
            chr(chance.choice([chance.randrange(32, 127), chance.randrange(161, 0xD800)])) for _ in range(12)
        )

    fixed = [
        "",
        " ",
        "  ",
        "   a",
        "a ",
        "\n",
        "\n\nOnce",
        " Once",
        "Once upon a time",
        "😀",
        "a😀b",
        "<0x0A>",
        "<0x",
        "▁a",
    ]
    return fixed + [one() for _ in range(count)]


# --- Models


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", FORMATS)
def test_logits_match_the_reference_implementation(kind, shape, tmp_path):
    m = make_model(**SHAPES[shape])
    (tmp_path / "model.bin").write_bytes(FORMATS[kind](m))
    model = load_llama2c(tmp_path / "model.bin")
    assert type(model) is TinyLlamaForCausalLM and not model.training and model.dtype == torch.float32
    assert model.config.tie_word_embeddings == m.tied
    ids = random.Random(1).choices(range(m.vocab_size), k=24)
    expected = forward(m, ids)
    assert expected.std() > 0.1
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_control_wrong_row_order_or_norm_is_detected(tmp_path):
    """Control: with another order of rows, or another norm, the difference is far above the tolerance."""
    m = make_model()
    (tmp_path / "model.bin").write_bytes(legacy(m))
    model = load_llama2c(tmp_path / "model.bin")
    ids = random.Random(1).choices(range(m.vocab_size), k=24)
    expected = forward(m, ids)

    def apart():
        with torch.no_grad():
            return np.abs(model(torch.tensor([ids])).logits[0].numpy() - expected).max()

    assert apart() < 1e-5
    projection = model.model.layers[1].self_attn.k_proj.weight
    turned = projection.clone()
    with torch.no_grad():
        projection.copy_(torch.from_numpy(m.wk[1]))
    assert apart() > 1e-3
    with torch.no_grad():
        projection.copy_(turned)
    model.model.norm.variance_epsilon = 1e-3
    assert apart() > 1e-4


@pytest.mark.parametrize("table", [b"", "zeros"])
def test_zero_rotary_table_is_accepted_and_a_missing_one_is_refused(table, tmp_path):
    m = make_model()
    content = legacy(m, bytes(len(rotary_table(m))) if table else b"")
    (tmp_path / "model.bin").write_bytes(content)
    if table:
        assert load_llama2c(tmp_path / "model.bin").config.rope_parameters["rope_theta"] == 10_000
    else:
        with pytest.raises(UserError, match="truncated"):
            load_llama2c(tmp_path / "model.bin")


# --- The tokenizer


@pytest.fixture(scope="module")
def tokenizer(pieces, tmp_path_factory):
    """The tokenizer after it was saved and loaded with `AutoTokenizer`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tok.bin").write_bytes(tokenizer_file(pieces))
    load_llama2c_tokenizer(folder / "tok.bin", VOCAB_SIZE, 96).save_pretrained(folder / "saved")
    return AutoTokenizer.from_pretrained(folder / "saved")


def test_token_ids_match_llama2c(pieces, tokenizer):
    texts = strange_strings(pieces, 4000)
    expected = [encode(pieces, text) for text in texts]
    assert tokenizer(texts)["input_ids"] == expected
    used = {token for tokens in expected for token in tokens}
    assert any(byte in used for byte in range(3, 259)) and len(used & set(range(259, VOCAB_SIZE))) > 300


def test_random_vocabularies_with_distinct_scores_match(tmp_path):
    """Also vocabularies that SentencePiece would not learn: pieces with several possible merges, in any order."""
    chance = random.Random(7)
    base = [(b"<unk>", 0.0), (b"<s>", 0.0), (b"</s>", 0.0)] + [(b"<0x%02X>" % byte, 0.0) for byte in range(256)]
    many_ways = 0
    for letters in ["a", "ab", "ab ", "abc"] * 12:
        made = {"".join(chance.choices(letters, k=chance.randrange(2, 7))) for _ in range(24)}
        made = sorted(made, key=lambda _: chance.random())
        found = base + [(piece.encode(), -float(i)) for i, piece in enumerate([*made, *sorted({*letters, " "})])]
        (tmp_path / "tok.bin").write_bytes(tokenizer_file(found))
        tokenizer = load_llama2c_tokenizer(tmp_path / "tok.bin", len(found), 96)
        pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        many_ways += len(pairs) - len({"".join(pair) for pair in pairs})
        texts = ["".join(chance.choices(letters, k=chance.randrange(1, 24))) for _ in range(60)]
        assert tokenizer(texts)["input_ids"] == [encode(found, text) for text in texts]
    assert many_ways > 200


def test_control_other_scores_or_a_missing_space_prefix_are_detected(pieces, tokenizer):
    """Control: these texts detect a tokenizer with a small difference."""
    texts = strange_strings(pieces, 300)
    found = tokenizer(texts)["input_ids"]
    backwards = [
        (piece, -1000 - score) if rank >= 259 else (piece, score) for rank, (piece, score) in enumerate(pieces)
    ]
    assert found != [encode(backwards, text) for text in texts]
    assert found != tokenizer([" " + text for text in texts])["input_ids"]


def test_stories_round_trip(pieces, tokenizer):
    for story in sample_stories(20, seed=2):
        tokens = tokenizer(story, verbose=False)["input_ids"]
        assert tokens == encode(pieces, story)
        assert tokenizer.decode(tokens, skip_special_tokens=True) == story == decode(pieces, tokens)


def test_decoding_matches_llama2c(pieces, tokenizer):
    for text in strange_strings(pieces, 1500):
        tokens = tokenizer(text)["input_ids"]
        assert tokenizer.decode(tokens, skip_special_tokens=True) == decode(pieces, tokens) == text
        assert tokenizer.decode(tokens) == "<s>" + text
    assert tokenizer.decode([1]) == "<s>" and tokenizer.decode([1], skip_special_tokens=True) == ""


def test_special_tokens_and_lengths(tokenizer, pieces):
    # Stories end with the token that begins the next one, as llama2.c trains.
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 1)
    assert tokenizer.pad_token_id == 0 != tokenizer.eos_token_id
    assert tokenizer.model_max_length == 96 and len(tokenizer) == VOCAB_SIZE
    text = "Once</s> upon<s>"
    assert tokenizer(text, split_special_tokens=True)["input_ids"] == encode(pieces, text)
    assert 2 in tokenizer(text)["input_ids"]
    batch = tokenizer(["Once", "Once upon a time"], padding=True)
    assert batch["input_ids"][0][0] == 0 and batch["attention_mask"][0][0] == 0
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Once"}], tokenize=True)["input_ids"]
    assert chat == tokenizer("Once")["input_ids"]


def test_old_spellings_of_bytes_give_the_same_tokenizer(pieces, tokenizer, tmp_path):
    """As early versions of llama2.c wrote them."""
    for spell in (lambda byte: bytes([byte]), lambda byte: chr(byte).encode()):
        old = [(spell(i - 3), score) if 3 <= i < 259 else (piece, score) for i, (piece, score) in enumerate(pieces)]
        (tmp_path / "old.bin").write_bytes(tokenizer_file(old))
        again = load_llama2c_tokenizer(tmp_path / "old.bin", VOCAB_SIZE, 96)
        assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


# --- The folder


@pytest.fixture
def source(pieces, tmp_path):
    """A function that writes a model and its tokenizer, and returns the path of the model."""

    def write(content=None, tokenizer=None, name="model.bin"):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(legacy(make_model()) if content is None else content)
        (folder / "tokenizer.bin").write_bytes(tokenizer_file(pieces) if tokenizer is None else tokenizer)
        return folder / name

    return write


@pytest.mark.parametrize("kind", FORMATS)
def test_imported_folder_generates_as_the_file_does(kind, source, pieces, tmp_path, capsys):
    m = make_model(seed=3)
    out = tmp_path / "new" / "out"
    assert main(["import", str(source(FORMATS[kind](m))), str(out)]) == 0
    said = capsys.readouterr()
    assert f"llama2.c, {kind}" in said.out and "warning" not in said.err
    assert [path.name for path in out.parent.iterdir()] == ["out"]

    config = json.loads((out / "config.json").read_text())
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 1, 1)
    assert config["max_position_embeddings"] == 96 and config["rms_norm_eps"] == 1e-5
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert type(PreTrainedTokenizerFast.from_pretrained(out)) is PreTrainedTokenizerFast

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.generation_config.do_sample and model.generation_config.eos_token_id == [1, 2]
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids == encode(pieces, "Once upon a time")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=8, eos_token_id=None)[0].tolist()
    for _ in range(8):
        ids.append(int(forward(m, ids)[-1].argmax()))
    assert output == ids
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > 4


def test_tokenizer_is_found_beside_the_model_or_by_option(source, pieces, tmp_path):
    model = source()
    (model.parent / "tokenizer.bin").rename(tmp_path / "elsewhere.bin")
    with pytest.raises(
        UserError,
        match=(
            f"no tok{VOCAB_SIZE}.bin, tok{VOCAB_SIZE}.model, tokenizer.bin, tokenizer.model or "
            rf"\*.model next to .*model.bin: specify .*--tokenizer"
        ),
    ):
        import_model(model, tmp_path / "out")
    assert import_model(model, tmp_path / "out", tmp_path / "elsewhere.bin").difference <= 1e-5
    (tmp_path / "elsewhere.bin").rename(model.parent / f"tok{VOCAB_SIZE}.bin")
    assert import_model(model, tmp_path / "out2").parameters == 700 * 32 + 2 * (3_072 + 4_608 + 64) + 32


# --- Damaged files and files of other formats


def patched(content, offset, kind, *values):
    return content[:offset] + struct.pack(kind, *values) + content[offset + struct.calcsize(kind) :]


def model_cases():
    tied, untied = legacy(make_model()), legacy(make_model(tied=False))
    first, second = version_1(make_model()), version_2(make_model())
    names = ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"]
    yield "empty", b"", "0 bytes"
    yield "no header", tied[:20], "20 bytes"
    yield "header only", tied[:28], "truncated"
    for kind, content in (("legacy", tied), ("untied", untied), ("version 1", first), ("version 2", second)):
        yield f"{kind}, a byte less", content[:-1], "truncated"
        yield f"{kind}, half", content[: len(content) // 2], "truncated"
        yield f"{kind}, a byte more", content + b"\0", "extra bytes"
        yield f"{kind}, twice", content * 2, "extra bytes"
        begin = 0 if kind in ("legacy", "untied") else 8
        for i, name in enumerate(names):
            yield f"{kind}, {name} 0", patched(content, begin + 4 * i, "<i", 0), f"{name} is 0"
            if name != "vocab_size" or begin:
                yield f"{kind}, {name} negative", patched(content, begin + 4 * i, "<i", -2), f"{name} is -2"
        yield f"{kind}, huge", patched(content, begin, "<7i", *[2**31 - 64] * 3, 1, 1, *[2**31 - 64] * 2), "truncated"
        yield f"{kind}, heads", patched(content, begin + 12, "<i", 5), "not a multiple of n_heads"
        yield f"{kind}, key/value heads", patched(content, begin + 16, "<i", 3), "not a multiple of n_kv_heads"
        yield f"{kind}, odd heads", patched(content, begin + 12, "<2i", 32, 32), "head dimension is 1"
        if kind != "version 2":
            yield f"{kind}, not a number", patched(content, len(content) // 8 * 4, "<f", math.nan), "not finite"
    yield "untied said to be tied", patched(untied, 20, "<i", VOCAB_SIZE), "extra bytes"
    yield "tied said to be untied", patched(tied, 20, "<i", -VOCAB_SIZE), "truncated"
    yield "another theta", legacy(make_model(), rotary_table(make_model(), 500.0)), "rotary positions"
    yield "another magic", b"ak42" + first[4:], "not a llama2.c model"
    yield "version 3", patched(first, 4, "<i", 3), "version 3"
    yield "version 1 without its header", first[:100], "ends in its header"
    yield "a flag", patched(first, 36, "<B", 7), "neither 0 nor 1"
    yield "a group of nothing", patched(second, 37, "<i", 0), "group_size is 0"
    yield "a group that does not fit", patched(second, 37, "<i", 5), "groups of 5"
    scale = 256 + 4 * (2 * 2 * 32 + 32) + VOCAB_SIZE * 32
    yield "a scale below zero", patched(second, scale, "<f", -1.0), "embedding has a scale"
    yield "an infinite scale", patched(second, scale, "<f", math.inf), "embedding has a scale"
    yield "text", b"Once upon a time there was a girl. " * 40, "not a llama2.c model"
    yield "GGUF", b"GGUF" + bytes(200), "GGUF"
    yield "safetensors", struct.pack("<Q", 2) + b"{}", "specify the folder of the model"


@pytest.mark.parametrize("content, words", [pytest.param(c, w, id=n) for n, c, w in model_cases()])
def test_damaged_model_is_one_line(content, words, source, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        import_model(source(content), tmp_path / "out")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    "place", ["embedding", "attention_norm", "wq", "w2", "norm", "head"], ids=lambda place: f"in {place}"
)
def test_non_finite_weights_are_found_in_every_section(place, source):
    m = make_model(tied=False)
    name = {"embedding": "tok", "attention_norm": "rms_att", "norm": "rms_final", "head": "wcls"}.get(place, place)
    getattr(m, name).flat[-1] = math.inf
    for write in (legacy, version_1):
        with pytest.raises(UserError, match=f"{place} has values that are not finite"):
            load_llama2c(source(write(m)))


def test_damaged_tokenizer_is_one_line(source, pieces, tmp_path):
    whole = tokenizer_file(pieces)
    last = len(pieces[-1][0])

    def change(i, piece=None, score=None):
        changed = list(pieces)
        changed[i] = (changed[i][0] if piece is None else piece, changed[i][1] if score is None else score)
        return tokenizer_file(changed, 64)

    cases = {
        "neither a SentencePiece model": bytes(4) + whole[4:],
        "ends after 699 pieces": whole[: -8 - last],
        "ends in piece 699": whole[:-1],
        "1 extra bytes": whole + b"\0",
        "nor a llama2.c tokenizer: specify another": b"\xff" * 4 + whole[4:],
        "piece 0 would have 2,000,000,000 bytes": patched(whole, 8, "<i", 2_000_000_000),
        "piece 0 would have -1 bytes": patched(whole, 8, "<i", -1),
        "score of piece 300 is nan": change(300, score=math.nan),
        "piece 300 is not UTF-8": change(300, piece=b"\xff\xfe"),
        "piece 10 should be byte 7": change(10, piece=b"<0x08>"),
        "has the piece .* twice": change(300, piece=pieces[301][0]),
        "the same score": change(260, score=pieces[261][1]),
        "no piece for a space": change([piece for piece, _ in pieces].index(b" "), piece="日".encode()),
    }
    for words, content in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            import_model(source(tokenizer=content), tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="context length .* is 2; at least 3"):
        import_model(source(legacy(make_model(seq_len=2))), tmp_path / "out")
    assert import_model(source(legacy(make_model(seq_len=3))), tmp_path / "least").two_ahead_loss > 0
    small = make_model(vocab_size=200)
    with pytest.raises(UserError, match="extra bytes after the 200 pieces of the model"):
        import_model(source(legacy(small)), tmp_path / "out")
    with pytest.raises(UserError, match="has 2 pieces, fewer than the 3 special tokens"):
        import_model(source(legacy(make_model(vocab_size=2)), tokenizer_file(pieces[:2])), tmp_path / "out")
    with pytest.raises(UserError, match="There is no tokenizer"):
        import_model(source(), tmp_path / "out", tmp_path / "none.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["least", "source"]


def test_mistakes_on_the_command_line_are_one_line(source, tmp_path, capsys):
    def refused(*arguments):
        assert main(["import", *map(str, arguments)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    model, full = source(), tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    assert "already exists" in refused(model, full)
    assert (full / "mine.txt").read_text() == "x"
    assert "There is no file or folder" in refused(tmp_path / "none.bin", tmp_path / "out")
    assert "no config.json" in refused(model.parent, tmp_path / "out")
    assert "mine.txt is a file. Choose another folder" in refused(model, full / "mine.txt" / "below")
    assert not (tmp_path / "out").exists()
