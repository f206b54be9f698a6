"""Conversion of SentencePiece tokenizers: token ids match the library `sentencepiece`."""

import math
import random
import struct
import sys
from itertools import islice

import numpy as np
import pytest
from test_import_llama2c import legacy, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinystories.cli import main
from tinystories.data.synthetic import sample_stories
from tinystories.export.import_model import import_model
from tinystories.export.piece_files import read_proto
from tinystories.export.sentencepiece import load_piece_tokenizer, load_sentencepiece, set_eos_token
from tinystories.utils.errors import UserError


sentencepiece = pytest.importorskip("sentencepiece")

LLAMA2C = {  # train_vocab() in llama2.c's tinystories.py
    "model_type": "bpe",
    "character_coverage": 1.0,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "unk_surface": r" \342\201\207 ",
    "normalization_rule_name": "identity",
}
KINDS = {
    "llama2.c 512": {**LLAMA2C, "vocab_size": 512},
    "llama2.c 4096": {**LLAMA2C, "vocab_size": 4096},
    "Llama 2": {**LLAMA2C, "vocab_size": 1000, "remove_extra_whitespaces": False},
    "char, identity": {"model_type": "char", "vocab_size": 105, "normalization_rule_name": "identity"},
    "char": {"model_type": "char", "vocab_size": 105},
    "char, bytes": {"model_type": "char", "vocab_size": 400, "byte_fallback": True},
    "bpe": {"model_type": "bpe", "vocab_size": 800},
    "bpe, few characters": {"model_type": "bpe", "vocab_size": 300, "character_coverage": 0.98},
    "bpe, spaces kept": {"model_type": "bpe", "vocab_size": 800, "remove_extra_whitespaces": False},
    "bpe, no space in front": {**LLAMA2C, "vocab_size": 600, "add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", "vocab_size": 700},
    "unigram, identity, bytes": {
        "model_type": "unigram", "vocab_size": 900, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "nfkc": {"model_type": "bpe", "vocab_size": 500, "normalization_rule_name": "nfkc"},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains a SentencePiece model: `trained("char")`, or with other settings."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    stories = [story.replace("\n", " ") for story in islice(sample_stories(2500), 2500)]
    (folder / "stories.txt").write_text(
        "\n".join(
            [*stories, "The café é ½ “quoted”  twice ... & 100% (a+b)=[c] {d} <s> </s> <0x41> #1 @home_x|y~z^ *\\"]
        ),
        encoding="utf-8",
    )

    def train(kind, **settings):
        prefix = folder / "".join(letter if letter.isalnum() else "_" for letter in f"{kind}{settings}")
        if not prefix.with_suffix(".model").exists():
            sentencepiece.SentencePieceTrainer.train(
                input=str(folder / "stories.txt"), model_prefix=str(prefix), num_threads=1, minloglevel=2,
                hard_vocab_limit=False, **{**KINDS.get(kind, {}), **settings},
            )  # fmt: skip
        return prefix.with_suffix(".model")

    return train


def odd_lines(count, seed=0):
    """Lines with many kinds of characters that normalisation changes or that are unknown."""
    chance = random.Random(seed)
    stories = list(islice(sample_stories(200, seed=3), 200))
    odd = [
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u200d", "\x07", "▁", "<0x0A>", "<0x41>"),
        *("é", "e\u0301", "ế", "e\u0302\u0301", "½", "ﬁ", "Ａ", "…", "™", "①", "～", "ß", "İ", "Ω", "日本", "한국"),
        *("😀", "👩\u200d👧", "❤\ufe0f", "q", "Q", "“"),
    ]

    def one():
        story = chance.choice(stories)
        begin = chance.randrange(len(story))
        text = story[begin : begin + chance.randrange(1, 120)]
        kind = chance.randrange(5)
        if kind == 1:
            text = "".join(chance.choice(odd) for _ in range(chance.randrange(1, 15)))
        if kind == 2:
            text = text.replace(" ", "  ")
        if kind >= 3:
            words = text.split(" ")
            for _ in range(chance.randrange(1, 5)):
                words.insert(chance.randrange(len(words) + 1), chance.choice(odd))
            text = (
                chance.choice(["", " ", "   ", "\n"]) + chance.choice(["", " "]).join(words) + chance.choice(["", " "])
            )
        return text

    fixed = [
        *("", " ", "   ", "\t", "\n", "▁", " ▁ ", "a", " a ", "a  b", "a\r\nb", "½\u200d½", "\u00a0\u0301", "\x07"),
        *("²\ufe0f", "<s>", "\u200d\u200b"),
    ]
    return fixed + [one() for _ in range(count - len(fixed))]


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_match_sentencepiece(kind, trained, tmp_path):
    file = trained(kind)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    load_piece_tokenizer(file, theirs.vocab_size(), 96).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    lines = odd_lines(1_000)
    expected = [[theirs.bos_id(), *ids] for ids in theirs.encode(lines)]
    found = tokenizer(lines, split_special_tokens=True)["input_ids"]
    differ = [(line, ours, ids) for line, ours, ids in zip(lines, found, expected, strict=True) if ours != ids]
    assert not differ, f"{len(differ)}: {ascii(differ[0])}"
    assert any(theirs.unk_id() in ids for ids in expected) != bool(KINDS[kind].get("byte_fallback"))

    for ids in expected:
        if theirs.unk_id() not in ids:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            # The library removes a leading space even if none is added in encoding.
            assert text.lstrip(" ") == theirs.decode(ids).lstrip(" ")
    for story in ("Once upon a time there was a girl.", "She had a red ball, and she loved it."):
        ids = tokenizer(story)["input_ids"]
        assert theirs.unk_id() in ids or tokenizer.decode(ids, skip_special_tokens=True) == theirs.decode(ids)


def test_control_another_normalisation_is_detected(trained):
    """Control: these lines are encoded differently with another normalisation."""
    lines = odd_lines(300)
    for one, other in (("char", "char, identity"), ("bpe", "bpe, spaces kept")):
        file = trained(one)
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
        spec = sentencepiece.SentencePieceProcessor(model_file=str(trained(other)))
        pieces = [[model.id_to_piece(i) for i in ids] for model in (theirs, spec) for ids in model.encode(lines)]
        assert pieces[:300] != pieces[300:]


# --- llama2.c's two files, and which of them is used


def bin_file(file):
    """The file that `export()` in llama2.c's tokenizer.py writes for a SentencePiece model."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    pieces = []
    for i in range(model.vocab_size()):
        piece = model.id_to_piece(i)
        if i == model.bos_id():
            piece = "\n<s>\n"
        elif i == model.eos_id():
            piece = "\n</s>\n"
        pieces.append((piece.replace("▁", " ").encode(), model.get_score(i)))
    content = struct.pack("<I", max(len(piece) for piece, _ in pieces))
    return content + b"".join(struct.pack("<fI", score, len(piece)) + piece for piece, score in pieces)


@pytest.mark.parametrize("kind", ["llama2.c 512", "llama2.c 4096", "Llama 2", "char, identity", "bpe"])
def test_bin_made_from_a_model_encodes_identically(kind, trained, tmp_path):
    """Except for normalisation and removed spaces, which a `.bin` does not contain."""
    size = sentencepiece.SentencePieceProcessor(model_file=str(trained(kind))).vocab_size()
    (tmp_path / "tok.bin").write_bytes(bin_file(trained(kind)))
    both = [load_piece_tokenizer(file, size, 96) for file in (trained(kind), tmp_path / "tok.bin")]
    lines = [" ".join(line.replace("▁", "").split()) for line in odd_lines(1_000)]
    lines = [line for line in lines if line.isascii() and line.isprintable()]
    assert len(lines) > 300
    assert both[0](lines)["input_ids"] == both[1](lines)["input_ids"]


@pytest.fixture
def source(trained, tmp_path):
    """A function that writes a model of llama2.c for a tokenizer, and the files of the tokenizer beside it."""

    def write(kind, *names, **changes):
        file = trained(kind)
        size = sentencepiece.SentencePieceProcessor(model_file=str(file)).vocab_size()
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "stories.bin").write_bytes(legacy(make_model(vocab_size=size, **changes)))
        for name in names:
            name = name.format(size)
            (folder / name).write_bytes(bin_file(file) if name.endswith(".bin") else file.read_bytes())
        return folder / "stories.bin"

    return write


@pytest.mark.parametrize("name", ["tokenizer.model", "tok{}.model", "mine.model"])
@pytest.mark.parametrize("kind", ["char", "llama2.c 512", "unigram"])
def test_model_is_imported_with_a_sentencepiece_tokenizer(kind, name, source, trained, tmp_path):
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(trained(kind)))
    file = source(kind, name)
    assert main(["import", str(file), str(tmp_path / "out")]) == 0
    model, tokenizer = (auto.from_pretrained(tmp_path / "out") for auto in (AutoModelForCausalLM, AutoTokenizer))
    lines = odd_lines(100)
    expected = [[1, *ids] for ids in theirs.encode(lines)]
    assert tokenizer(lines, split_special_tokens=True)["input_ids"] == expected
    assert model.config.vocab_size == theirs.vocab_size() == len(tokenizer)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == model.config.eos_token_id == 1
    # The padding token occurs in no text and is not EOS.
    assert tokenizer.pad_token_id not in {i for ids in expected for i in ids}
    assert tokenizer.pad_token_id not in np.atleast_1d(model.generation_config.eos_token_id)


def test_matching_tokenizer_is_chosen(source, trained, tmp_path, caplog):
    kind = "llama2.c 512"
    file = source(kind, "tok{}.model", "tokenizer.bin")

    def imported(out, *arguments):
        import_model(file, tmp_path / out, *arguments)
        return AutoTokenizer.from_pretrained(tmp_path / out)("a  b")["input_ids"]

    collapsed = [1, *sentencepiece.SentencePieceProcessor(model_file=str(trained(kind))).encode("a  b")]
    assert imported("model") == collapsed
    # The `.bin` keeps both spaces, as llama2.c does. It is used, because its `.model` encodes stories identically.
    (file.parent / "tok512.bin").write_bytes(bin_file(trained(kind)))
    assert imported("bin") != collapsed and not caplog.records
    assert imported("named", file.parent / "tok512.model") == collapsed
    assert imported("named folder", file.parent) != collapsed
    # One of another size is ignored.
    (file.parent / "tok512.bin").write_bytes(bin_file(trained("char, bytes")))
    assert imported("other") == collapsed


def test_bin_that_encodes_differently_from_its_model_is_not_used(source, trained, tmp_path, caplog):
    """llama2.c merges pieces by their scores; a unigram model does not."""
    kind = "unigram, identity, bytes"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(trained(kind)))
    import_model(source(kind, "tok{}.bin", "tok{}.model"), tmp_path / "out")
    assert "encode text differently; tok900.model is used" in caplog.text
    story = next(sample_stories(1))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(story)["input_ids"] == [1, *theirs.encode(story)]


def test_bin_without_byte_pieces_has_unknown_characters(source, trained, tmp_path):
    """A character-level one; llama2.c itself would use other pieces for them."""
    import_model(source("char, identity", "tok{}.bin"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(trained("char, identity")))
    for text in ("Once upon a time", "日本 a"):
        assert tokenizer(text)["input_ids"] == [1, *theirs.encode(text)]
    assert tokenizer.pad_token == "</s>"
    set_eos_token(tokenizer, "</s>")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "<unk>")
    file = source("char, identity", "tok{}.bin", "tokenizer.model")
    import_model(file, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("a  b")["input_ids"] == [1, *theirs.encode("a  b")]


def test_missing_or_unusable_tokenizer_is_one_line(source, trained, tmp_path, capsys, monkeypatch):
    kind = "llama2.c 512"
    out = tmp_path / "out"

    def import_with(*names, tokenizer=None):
        file = source(kind, *names)
        extra = [] if tokenizer is None else ["--tokenizer", str(tokenizer)]
        assert main(["import", str(file), str(out), *extra]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert not out.exists()
        for name in names:
            (file.parent / name.format(512)).unlink()
        return said[-1]

    said = import_with()
    for name in ("tok512.bin", "tok512.model", "tokenizer.bin", "tokenizer.model", "*.model", "stories.bin"):
        assert name in said
    (tmp_path / "empty").mkdir()
    said = import_with(tokenizer=tmp_path / "empty")
    assert "tok512.model" in said and str(tmp_path / "empty") in said
    assert "There is no tokenizer" in import_with(tokenizer=tmp_path / "none.model")
    said = import_with(tokenizer=trained("bpe"))
    assert "has 800 pieces, but the model has 512" in said

    folder = source(kind).parent
    (folder / "tokenizer.model").write_bytes(trained("bpe").read_bytes())
    (folder / "tokenizer.bin").write_bytes(bin_file(trained("bpe")))
    assert "None of the tokenizers" in import_with() and not out.exists()
    (folder / "tokenizer.bin").unlink()
    assert "has 800 pieces" in import_with()
    whole = trained(kind).read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"Once upon a time\n" * 9,
        "bits": bytes(reversed(whole)),
    }
    for content in damaged.values():
        (folder / "tokenizer.model").write_bytes(content)
        assert "is not a SentencePiece model" in import_with() or "is damaged" in import_with()
    (folder / "tokenizer.model").write_bytes(whole)

    def missing(message=""):
        raise ImportError("protobuf")

    monkeypatch.setattr(sys.modules["transformers.convert_slow_tokenizer"], "import_protobuf", missing)
    assert "pip install '.[import]'" in import_with()


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("bpe", {"user_defined_symbols": ["[NAME]", "[PLACE]"]}, r"user-defined symbols \('\[NAME\]', '\[PLACE\]'\)"),
        ("word", {"model_type": "word", "vocab_size": 300}, "it is a word-level model"),
        ("bpe", {"treat_whitespace_as_suffix": True}, "after words"),
        ("bpe", {"bos_id": -1}, "no BOS token"),
        ("bpe", {"normalization_rule_name": "nmt_nfkc_cf"}, "custom normalisation rules .nmt_nfkc_cf"),
    ],
)
def test_tokenizers_that_cannot_be_converted_exactly_are_refused(kind, settings, words, trained):
    file = trained(kind, **settings)
    with pytest.raises(UserError, match=words) as caught:
        load_sentencepiece(file, 10_000, 96)
    assert "\n" not in str(caught.value)


def edited(file, edit, out):
    """A copy of a `.model` in which `edit` has changed the message."""
    proto = read_proto(file)
    edit(proto)
    out.write_bytes(proto.SerializeToString())
    return out


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda p: setattr(p.normalizer_spec, "escape_whitespaces", False), "does not mark spaces"),
        (lambda p: setattr(p.denormalizer_spec, "precompiled_charsmap", b"rules"), "denormalisation rules"),
        (lambda p: setattr(p.pieces[300], "type", p.pieces[300].UNUSED), "pieces marked as unused"),
        (lambda p: setattr(p.pieces[0], "type", p.pieces[0].CONTROL), "is damaged: it has 0 unknown pieces"),
        (lambda p: setattr(p.pieces[300], "score", math.nan), "is damaged: piece 300 is .* with the score nan"),
        (lambda p: setattr(p.trainer_spec, "byte_fallback", True), "some of the 256 byte pieces are missing"),
        (lambda p: p.ClearField("pieces"), "it has no pieces"),
    ],
    ids=["spaces", "denormaliser", "unused", "unknown", "score", "bytes", "no pieces"],
)
def test_edited_models_are_refused(edit, words, trained, tmp_path):
    file = edited(trained("bpe"), edit, tmp_path / "edited.model")
    with pytest.raises(UserError, match=words) as caught:
        load_sentencepiece(file, 10_000, 96)
    assert "\n" not in str(caught.value)


def test_special_tokens_with_other_ids_and_names(trained):
    file = trained("bpe", pad_id=0, unk_id=3, bos_id=2, eos_id=1, bos_piece="<begin>", pad_piece="<pad>")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokenizer = load_piece_tokenizer(file, 800, 96)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id) == (0, 3, 2)
    lines = odd_lines(200)
    assert tokenizer(lines, split_special_tokens=True)["input_ids"] == [[2, *ids] for ids in theirs.encode(lines)]
