import gzip
import json
import logging
import os
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, IterableDataset
from story_files import OTHER_TALES, STORIES, WRITERS, csv_table, json_list, jsonl, parquet, txt

from tinystories import cli
from tinystories.commands.arguments import reading_options
from tinystories.data.corpus import recipe_corpus
from tinystories.evaluation.evaluate import evaluate, held_out_stories
from tinystories.recipe import build_recipe, load_recipe, parse_overrides
from tinystories.serving.settings import read_settings
from tinystories.utils.errors import UserError


# Training and held-out stories


def test_hold_out_depends_on_seed_and_text_alone(write, load):
    source = write("a.jsonl", jsonl(STORIES))
    first, again, other = load(source), load(source), load(source, seed=1)
    assert first.validation["text"][:] == again.validation["text"][:]
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert set(first.validation["text"]) != set(other.validation["text"])
    turned = load(write("turned.txt", txt(STORIES[::-1])))
    assert set(turned.validation["text"]) == set(first.validation["text"])
    assert turned.fingerprint != first.fingerprint
    grown = load(write("grown.txt", txt([*STORIES, *(f"New {i}." for i in range(50))])))
    assert set(first.validation["text"]) - set(grown.train["text"])


def test_duplicates_stay_in_one_split(write, load):
    found = load(write("a.jsonl", jsonl(STORIES * 3)), validation_fraction=0.3)
    train, validation = found.train["text"][:], found.validation["text"][:]
    assert len(validation) == 30 and len(set(validation)) == 30
    assert len(train) == 70 * 3 and not set(train) & set(validation)


def test_one_of_two_stories_is_held_out(write, load):
    found = load(write("a.txt", txt(["One.", "Two."])))
    assert (len(found.train), len(found.validation)) == (1, 1)
    assert len(load(write("b.txt", txt(["One.", "Two."])), validation_fraction=0.99).train) == 1


def test_max_stories_does_not_change_the_other_split(write, load):
    source = write("a.txt", txt(STORIES))
    whole = load(source, validation_fraction=0.2)
    part = load(source, validation_fraction=0.2, max_stories=7, max_validation_stories=3)
    assert part.train["text"][:] == whole.train["text"][:7]
    assert part.validation["text"][:] == whole.validation["text"][:3]
    shorter = [
        load(source, validation_fraction=0.2, **{name: 7}) for name in ("max_stories", "max_validation_stories")
    ]
    assert len({found.fingerprint for found in (part, whole, *shorter)}) == 4


@pytest.mark.parametrize(
    "train, held",
    [
        ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
        ("train-00000-of-00001.txt", "validation-00000-of-00001.txt"),
        ("Tales-train-00000-of-00001.txt", "Tales-dev-00000-of-00001.txt"),
        ("data/train/a.txt", "data/dev/a.txt"),
        ("the-test-of-time.txt", "val.txt"),
        ("stories.txt", "test.txt"),
    ],
)
def test_names_of_files_and_folders_are_splits(train, held, write, load, texts, caplog, tmp_path):
    write(f"in/{train}", txt(STORIES))
    write(f"in/{held}", txt([STORIES[3], "New one.", "New one."]))
    write("in/.hidden.csv", b"x")
    write("in/README.md", b"x")
    with caplog.at_level(logging.WARNING):
        found = load(tmp_path / "in")
    assert found.name == "in"
    assert found.validation["text"][:] == [STORIES[3], "New one.", "New one."]
    assert found.train["text"][:] == STORIES[:3] + STORIES[4:]
    assert "removed 1 training story contained in the validation split" in caplog.text
    assert texts(tmp_path / "in") == STORIES  # one split, nothing held out
    assert texts(tmp_path / "in", "validation") == found.validation["text"][:]
    assert texts(tmp_path / "in" / train, "validation") == STORIES
    if "/" not in train:
        assert load(tmp_path / "in" / "*.txt").fingerprint == found.fingerprint


def test_a_test_split_is_unused_if_there_is_a_validation_split(write, load, tmp_path, caplog):
    for split, stories in {"train": ["A."], "valid": ["B."], "test": ["C."]}.items():
        write(f"in/{split}.txt", txt([*stories, ""]))
    found = load(tmp_path / "in")
    assert (found.train["text"][:], found.validation["text"][:]) == (["A."], ["B."])
    assert "the test split is not used, because there is a validation split: test.txt" in caplog.text


def test_validation_can_be_another_source(write, load):
    train, held = write("a.txt", txt(STORIES)), write("b.parquet", parquet(STORIES[:5]))
    found = load(train, validation=held)
    assert found.validation["text"][:] == STORIES[:5] and found.train["text"][:] == STORIES[5:]


def test_a_saved_dataset_is_read_by_its_splits(load, tmp_path):
    saved = Dataset.from_dict({"text": STORIES}).train_test_split(0.1, seed=0)
    saved.save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved")
    assert found.validation["text"][:] == saved["test"]["text"][:]
    assert found.train["text"][:] == saved["train"]["text"][:]


def test_streaming_local_files_gives_the_same_stories(write, load):
    source = write("a.txt", txt(STORIES))
    stream, table = load(source, streaming=True), load(source)
    assert isinstance(stream.train, IterableDataset) and isinstance(stream.validation, Dataset)
    assert [row["text"] for row in stream.train] == table.train["text"][:]
    assert stream.validation["text"][:] == table.validation["text"][:]
    assert stream.fingerprint == table.fingerprint


# Caching


@pytest.mark.parametrize("name", WRITERS)
def test_a_changed_file_is_never_served_from_the_cache(name, write, load, texts):
    source = write(name, WRITERS[name](STORIES))
    before = load(source)
    os.utime(source, ns=(1, 1))
    assert load(source).fingerprint == before.fingerprint
    changed = [story.replace("cats", "dogs") for story in STORIES]
    write(name, WRITERS[name](changed))
    os.utime(source, ns=(10**9, 10**9))
    assert texts(source) == changed
    assert load(source).fingerprint != before.fingerprint


def test_a_second_load_reads_the_cache(write, load, tmp_path):
    source = write("a.csv", csv_table(STORIES))
    load(source)
    tables = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}
    load(source)
    assert tables and tables == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}


# Errors


BAD = {
    "missing file": ({}, "nowhere.txt", "no file or folder .*nowhere.txt"),
    "missing folder": ({}, "nowhere", "no file or folder .*nowhere.*owner/name"),
    "empty file": ({"a.txt": b""}, "a.txt", "a.txt is empty"),
    "empty file among others": ({"in/a.csv": b"text\nx\n", "in/b.csv": b""}, "in", "b.csv is empty"),
    "empty folder": ({"in/.keep": b""}, "in", r"in contains no files that end in .txt, .md, .markdown, .json"),
    "nothing readable": ({"in/a.xyz": b"x"}, "in", r"contains no files that end in .txt, .md, .markdown, .json"),
    "glob of nothing": ({"in/a.pdf": b"x"}, "in/*.txt", r"in/\*.txt contains no files"),
    "unknown suffix": (
        {"a.xyz": b"x"},
        "a.xyz",
        r"a.xyz does not end in .txt, .md, .markdown.* correct its suffix",
    ),
    "Git LFS pointer": (
        {"a.jsonl": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"},
        "a.jsonl",
        "a.jsonl is a Git LFS pointer.*git lfs pull",
    ),
    "binary file": ({"a.csv": b"\x89PNG\r\n" + bytes(range(256)) * 9}, "a.csv", "a.csv is not UTF-8 text.*iconv"),
    "Cyrillic encoding": ({"a.txt": "Жил-был кот. ".encode("cp1251")}, "a.txt", "a.txt is not UTF-8 text.*iconv"),
    "no header": (
        {"a.csv": b"A cat sat.\nA dog ran.\n"},
        "a.csv",
        "no column text: .*The first line must be the head",
    ),
    "empty object": ({"a.json": b"{}"}, "a.json", r"no column text: .*columns: none"),
    "no letters in text": ({"a.txt": b"1 2 3"}, "a.txt", "The stories of a.txt contain no letters.$"),
    "mixed formats": ({"in/a.txt": txt("ab"), "in/b.csv": b"text\nx\n"}, "in", "a.txt and b.csv have different"),
    "only validation": ({"in/valid.txt": txt("ab")}, "in", "in has no train split, only validation"),
    "one story": (
        {"a.txt": txt(["x", "x", "x"])},
        "a.txt",
        "a.txt contains only one distinct story, but at least two",
    ),
    "only marks": ({"a.txt": txt(["", " ", "\n"])}, "a.txt", "a.txt contains no stories"),
    "only blanks": ({"a.csv": b'text,n\n" ",1\n"",2\n'}, "a.csv", "a.csv contains no stories"),
    "empty list": ({"a.json": b"[]"}, "a.json", "a.json contains no stories"),
    "no mark": (
        {"a.txt": b"One.\n\nTwo.\n"},
        "a.txt",
        r"a.txt has no <\|endoftext\|> between its stories.*set --split to file \(1 story\), ",
    ),
    "no mark for long": (
        {"a.txt": b"x<|endoftext|>" + b"x" * 9**7},
        "a.txt",
        "no .* in the 1,0.* characters after the beginning of story 2",
    ),
    "not utf-8": ({"a.txt": txt(STORIES) + b"caf\xe9 x"}, "a.txt", r"a.txt, story 100: not valid UTF-8 \(byte 0xe9\)"),
    "not utf-8 after bom": (
        {"a.txt": b"\xef\xbb\xbfca\xe9 <|endoftext|>"},
        "a.txt",
        r"story 1: not valid UTF-8 \(byte 0xe9\); .*iconv",
    ),
    "not utf-8 in csv": (
        {"a.csv": b"text\ncaf\xe9 x\n"},
        "a.csv",
        r"a.csv, row 1 \(line 2\): not valid UTF-8 \(byte 0xe9\)",
    ),
    "not utf-8 in jsonl": (
        {"a.jsonl": jsonl(STORIES) + b'\n{"text": "c\xe9 x"}'},
        "a.jsonl",
        r"a.jsonl, line 101: not valid UTF-8 \(byte 0xe9\)",
    ),
    "not utf-8 in parquet": (
        {"a.parquet": parquet(["cafe x"]).replace(b"cafe", b"caf\xe9")},
        "a.parquet",
        r"a.parquet, row 1: not valid UTF-8 \(byte 0xe9\)",
    ),
    "broken gzip": ({"a.txt.gz": gzip.compress(txt(STORIES))[:40]}, "a.txt.gz", "a.txt.gz cannot be read as .txt.gz"),
    "broken json": ({"a.json": json_list(STORIES)[:-9]}, "a.json", "a.json, item 100: truncated, or not valid JSON"),
    "broken jsonl": ({"a.jsonl": jsonl(STORIES)[:-9]}, "a.jsonl", "a.jsonl, line 100: not valid JSON"),
    "broken csv": ({"a.csv": b'text,n\na,1\n"b,2\n'}, "a.csv", "a.csv, line 3: a quotation mark is not closed"),
    "broken parquet": (
        {"a.parquet": parquet(STORIES)[:-9]},
        "a.parquet",
        "a.parquet cannot be read as .parquet: .*again",
    ),
    "one broken of two": (
        {"in/a.jsonl": jsonl(STORIES), "in/b.jsonl": jsonl(STORIES)[:-9]},
        "in",
        "b.jsonl, line 100: not valid JSON",
    ),
    "columns differ": (
        {"in/a.jsonl": jsonl(STORIES), "in/b.jsonl": jsonl(STORIES, "tale")},
        "in",
        "b.jsonl has no column text: .*--text-column .columns: tale, n",
    ),
    "no column": ({"a.jsonl": jsonl(STORIES, "tale")}, "a.jsonl", "no column text: .*--text-column .columns: tale, n"),
    "numbers": ({"a.csv": b"text\n1\n2\n"}, "a.csv", "stories of a.csv contain no letters: .*--text-column"),
    "lists": (
        {"a.jsonl": b'{"text": ["a"]}\n{"text": ["b"]}\n'},
        "a.jsonl",
        "a.jsonl, line 1: `text` is a list, not a string",
    ),
}


@pytest.mark.parametrize("files, source, message", BAD.values(), ids=BAD)
def test_unreadable_sources_are_one_line_errors(files, source, message, write, load, tmp_path, caplog):
    for name, content in files.items():
        write(name, content)
    with pytest.raises(UserError, match=message) as raised:
        load(tmp_path / source)
    assert "\n" not in str(raised.value)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # `datasets` logs nothing


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation_fraction": 0.0}, "`validation_fraction` must be between 0 and 1"),
        ({"max_stories": 0}, "`max_stories` must be at least 1"),
        ({"max_validation_stories": -1}, "`max_validation_stories` must be at least 1"),
        ({"validation": "same.txt"}, "Every training story of a.txt is also a validation story"),
        ({"validation": "none.txt"}, "no file or folder none.txt"),
    ],
)
def test_invalid_options_are_errors(options, message, write, load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write("same.txt", txt(STORIES))
    with pytest.raises(UserError, match=message):
        load(write("a.txt", txt(STORIES)), **options)


# The options on the command line and in a recipe


def test_reading_options_in_a_recipe(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write("in/a.txt", b"A\n\nB")
    write("in/b.txt", b"C")
    write("a.jsonl", b'{"TALE": "A"}\n{"tale": "B"\n{"tale": "C"}')
    recipe = build_recipe({"corpus": str(tmp_path / "in"), "split": "file", "validation_corpus": str(tmp_path / "in")})
    assert recipe.split == "file" and not recipe.skip_bad_rows
    arguments = ["--corpus", str(tmp_path / "in"), "--max_stories", "9"]
    for given in (["--one_story_per_file"], ["--one-story-per-file", "true"], ["--split", "file"]):
        recipe = build_recipe({}, parse_overrides([*arguments, *given]))
        found = recipe_corpus(recipe)
        assert {*found.train["text"], *found.validation["text"]} == {"A\n\nB", "C"}
    arguments = ["--corpus", str(tmp_path / "a.jsonl"), "--text_column", "Tale"]
    with pytest.raises(UserError, match="a.jsonl, line 2: not valid JSON"):
        recipe_corpus(build_recipe({}, parse_overrides(arguments)))
    found = recipe_corpus(build_recipe({}, parse_overrides([*arguments, "--skip_bad_rows"])))
    assert {*found.train["text"], *found.validation["text"]} == {"A", "C"}


@pytest.mark.parametrize("marker", ["***", "[SEP]", "a: b", "# # #", "{x}", "~", "null", "5e3", "<|endoftext|>"])
def test_a_marker_is_not_parsed_as_yaml(marker):
    assert build_recipe({}, parse_overrides(["--split", marker])).split == marker
    assert build_recipe(yaml.safe_load(f"split: '{marker}'")).split == marker


def test_an_empty_split_is_an_error():
    with pytest.raises(UserError, match="`split` needs a value: auto, file, line"):
        build_recipe({}, parse_overrides(["--split"]))
    with pytest.raises(UserError, match="`split` needs a value"):
        build_recipe(yaml.safe_load("split: ~"))


def test_every_path_option_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    keys = {"corpus": "~/a", "validation_corpus": "~/a", "tokenizer": "~/a"}
    recipe = build_recipe({**keys, "trainer": {"output_dir": "~/a", "resume_from_checkpoint": "~/a"}})
    assert {getattr(recipe, key) for key in keys} == set(recipe.trainer.values()) == {"/home/me/a"}
    recipe = build_recipe({}, dict.fromkeys((*keys, "output_dir"), "~/a"))
    assert {getattr(recipe, key) for key in keys} == set(recipe.trainer.values()) == {"/home/me/a"}
    for command, paths in {
        "train ~/a": ["recipe"],
        "tokenizer ~/a ~/a --top-k-of=~/a": ["corpus", "out", "top_k_of"],
        "generate ~/a x": ["model"],
        "export ~/a ~/a": ["model", "out"],
        "import ~/a ~/a --tokenizer=~/a": ["source", "out", "tokenizer"],
        "doctor ~/a --corpus=~/a --tokenizer=~/a --clean=~/a": ["target", "corpus", "tokenizer", "clean"],
        "push ~/a --repo-id me/x --out=~/a": ["model", "out"],
        "evaluate ~/a --corpus=~/a --train-corpus=~/a --out=~/a --dump-pairs=~/a": [
            *("corpus", "train_corpus", "out", "dump_pairs")
        ],
        "serve ~/a --tokenizer=~/a": ["checkpoint", "tokenizer"],
    }.items():
        options = cli.parse(command.split())
        assert {getattr(options, path) for path in paths} == {"/home/me/a"}, command
    assert cli.parse(["evaluate", "~/a", "~/a"]).models == ["/home/me/a"] * 2
    settings = read_settings({}, {"CHECKPOINT_PATH": "~/a", "TOKENIZER_PATH": "~/a"})
    assert settings.checkpoint == settings.tokenizer == "/home/me/a"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("max_length: 64\n", "utf-8")
    assert load_recipe("~/a.yaml").max_length == 64


@pytest.mark.parametrize("verb", ["doctor", "tokenizer"])
def test_reading_options_of_commands(verb, write, tmp_path, capsys):
    write("in/The dev.txt", OTHER_TALES[0].replace("\n", "\n\n").encode())
    write("in/b.txt", OTHER_TALES[1].encode())
    write("a.jsonl", "\n".join(json.dumps({"Body": tale}) for tale in OTHER_TALES).encode() + b"\nbroken")

    def run(source, *options):
        rest = ["--quick"] if verb == "doctor" else [str(tmp_path / f"out{''.join(options)}"), "--vocab-size=280"]
        status = cli.main([verb, str(source), *rest, *options])
        return status, capsys.readouterr().err

    status, log = run(tmp_path / "in")
    assert status == 2 and "where a story ends is ambiguous: set --split to file" in log
    for options in (["--split", "file"], ["--one-story-per-file"]):
        status, log = run(tmp_path / "in", *options)
        assert status < 2, log
        assert "in: files used for train: The dev.txt, b.txt" in log
        assert "one story per file (set by --split): 2 stories" in log
    assert run(tmp_path / "a.jsonl")[0] == run(tmp_path / "a.jsonl", "--text-column=body")[0] == 2
    status, log = run(tmp_path / "a.jsonl", "--text-column=body", "--skip-bad-rows")
    assert status < 2 and "skipped 1 unreadable row," in log


def test_reading_options_of_evaluate(write, tmp_path):
    write("in/a.txt", b"A\n\nB")
    write("in/b.txt", b"C")
    name, stories = held_out_stories([], str(tmp_path / "in"), text_split="file")
    assert (name, stories) == ("in", ["A\n\nB", "C"])
    options = cli.parse("evaluate x --split line --skip-bad-rows --text-column body".split())
    assert reading_options(options) == {"text_column": "body", "split": "line", "skip_bad_rows": True}
    model = Path(write("run/config.json", b"{}")).parent  # the stories are read first
    with pytest.raises(UserError, match="a.jsonl, line 1: not valid JSON"):
        evaluate([model], corpus=write("a.jsonl", b"broken\n"), split="file", progress=False)
