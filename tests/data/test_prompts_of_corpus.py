"""Columns of a corpus as the text in front of its stories: reading, packing, labels."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tinystories.data.corpus import load_corpus
from tinystories.data.instructions import Instructions
from tinystories.data.packing import IGNORE_INDEX, PackedStories, pack_stories, tokenize_stories
from tinystories.data.streaming import PackedStream
from tinystories.data.synthetic import sample_stories
from tinystories.runs.builtin_model import FOLDER
from tinystories.runs.loading import load_tokenizer
from tinystories.utils.errors import UserError


WORDS = Instructions("Words: {words}\nFeatures: {features}\nStory:")
STORIES = list(sample_stories(120, seed=3))
ROWS = [
    {"text": story, "words": f"word{at}, dog", "features": "" if at % 3 else "dialogue"}
    for at, story in enumerate(STORIES)
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


def prompt_of(row):
    features = f"Features: {row['features']}\n" if row["features"] else ""
    return f"Words: {row['words']}\n{features}Story:\n"


def write(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.json", "a.jsonl", "a.jsonl.gz"])
def test_fields_of_every_format(name, tmp_path):
    corpus = load_corpus(write(tmp_path / name, ROWS), instructions=WORDS)
    found = dict(zip(corpus.train["text"], corpus.train["prompt"], strict=True))
    found |= dict(zip(corpus.validation["text"], corpus.validation["prompt"], strict=True))
    assert found == {row["text"]: prompt_of(row) for row in ROWS}
    assert corpus.train.column_names == ["text", "prompt"]


def test_fields_of_csv_files(tmp_path):
    rows = [f'"{at}","Once there was a cat number {at}. It sat.",dog, Words' for at in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["Words,text,other,Features", *rows]))
    corpus = load_corpus(str(tmp_path / "a.csv"), instructions=WORDS)
    assert {*corpus.train["prompt"]} >= {f"Words: {at}\nFeatures: Words\nStory:\n" for at in (3, 17)} - {
        *corpus.validation["prompt"]
    }


def test_lists_are_joined_and_missing_values_are_empty(tmp_path):
    rows = [{"text": story, "words": ["a", "b"], "features": None} for story in STORIES]
    rows[0] |= {"features": ["moral"], "words": []}
    for name in ("a.parquet", "a.jsonl"):
        corpus = load_corpus(write(tmp_path / name, rows), instructions=WORDS)
        prompts = [*corpus.train["prompt"], *corpus.validation["prompt"]]
        assert sorted({*prompts}) == ["Features: moral\nStory:\n", "Words: a, b\nStory:\n"]
        assert prompts.count("Features: moral\nStory:\n") == 1


def test_rows_without_text_and_bad_rows_keep_the_columns_aligned(tmp_path):
    rows = [*ROWS[:50], {"text": " ", "words": "none", "features": ""}, *ROWS[50:]]
    bad = json.dumps({"text": "Once.", "words": 3}) + "\n{\n"
    path = tmp_path / "a.jsonl"
    path.write_text(bad + "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 1: `words` is neither a string nor a list"):
        load_corpus(str(path), instructions=WORDS)
    corpus = load_corpus(str(path), instructions=WORDS, skip_bad_rows=True)
    found = {row["text"]: row["prompt"] for part in (corpus.train, corpus.validation) for row in part}
    assert found == {row["text"]: prompt_of(row) for row in ROWS}


def test_dropout_leaves_out_lines_of_training_stories(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    whole, some, other = (
        load_corpus(path, instructions=Instructions(WORDS.template, rate), seed=seed)
        for rate, seed in ((0.0, 0), (0.5, 0), (0.5, 1))
    )
    assert some.validation["prompt"][:] == whole.validation["prompt"][:]
    with_words = sum("Words:" in prompt for prompt in some.train["prompt"])
    assert 0.3 < with_words / len(some.train) < 0.7 and "" in some.train["prompt"][:]
    assert (
        some.train["prompt"][:] == load_corpus(path, instructions=Instructions(WORDS.template, 0.5)).train["prompt"][:]
    )
    assert len({whole.fingerprint, some.fingerprint, other.fingerprint, load_corpus(path).fingerprint}) == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": story, "words": "a"} for story in STORIES], ["features"]),
        ([{"text": story, "words": "", "features": "b"} for story in STORIES], ["words", "empty"]),
        ([{"text": story, "words": 3, "features": "b"} for story in STORIES], ["words", "text"]),
    ],
)
def test_bad_columns_are_one_line(rows, words, tmp_path):
    with pytest.raises(UserError) as error:
        load_corpus(write(tmp_path / "a.parquet", rows), instructions=WORDS)
    assert all(word in str(error.value) for word in words)


def test_text_without_columns(tmp_path):
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    for source in (str(tmp_path / "a.txt"), "sample"):
        with pytest.raises(UserError, match="tinystories annotate"):
            load_corpus(source, instructions=WORDS)


# ---- packing


def instructed(rows=ROWS):
    return Dataset.from_list([{"text": row["text"], "prompt": prompt_of(row)} for row in rows])


def documents(rows):
    """Token ids, labels and positions of each document of packed rows."""
    for number in range(len(rows)):
        row = rows[number]
        starts = [*np.flatnonzero(row["position_ids"].numpy() == 0), rows.length]
        for first, end in zip(starts[:-1], starts[1:], strict=True):
            if int(row["input_ids"][first]) != rows.pad_token_id:
                yield row["input_ids"][first:end].tolist(), row["labels"][first:end].tolist()


@pytest.mark.parametrize("train_on_prompts", [False, True])
def test_the_loss_falls_on_the_story(train_on_prompts, tokenizer):
    stories = instructed()
    tokens = tokenize_stories(stories, tokenizer, f"labels {train_on_prompts}")
    rows = PackedStories(
        tokens, context=512, overlap=64, pad_token_id=tokenizer.pad_token_id, train_on_prompts=train_on_prompts
    )
    expected = {}
    for row in ROWS:
        prompt, story = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt_of(row), row["text"])
        )
        unscored = 1 if train_on_prompts else 1 + len(prompt)
        ids = [tokenizer.bos_token_id, *prompt, *story, tokenizer.eos_token_id]
        expected[tuple(ids)] = [IGNORE_INDEX] * unscored + ids[unscored:]
    found = {}
    for ids, labels in documents(rows):
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)  # of padding
        found[tuple(ids[:end])] = labels[:end]
        assert set(labels[end:]) <= {IGNORE_INDEX}
    assert found == expected
    assert rows.scored == sum(label != IGNORE_INDEX for labels in expected.values() for label in labels)
    assert rows.bytes == sum(len(story.encode()) for story in STORIES)


def test_a_story_of_several_documents_has_its_prompt_once(tokenizer):
    rows = PackedStories(
        tokenize_stories(instructed(), tokenizer, "long"), context=64, overlap=8, pad_token_id=tokenizer.pad_token_id
    )
    scored = [label for _, labels in documents(rows) for label in labels if label != IGNORE_INDEX]
    stories = [tokenizer(story, add_special_tokens=False)["input_ids"] for story in STORIES]
    assert sorted(scored) == sorted([token for ids in stories for token in [*ids, tokenizer.eos_token_id]])


def test_a_prompt_that_fills_a_document_is_not_scored(tokenizer):
    stories = Dataset.from_list([{"text": "A cat sat. " * 30, "prompt": "Words: " + "dog, " * 40 + "\n"}] * 3)
    rows = PackedStories(
        tokenize_stories(stories, tokenizer, "full"), context=64, overlap=8, pad_token_id=tokenizer.pad_token_id
    )
    dog = tokenizer(" dog", add_special_tokens=False)["input_ids"][0]
    labels = np.concatenate([rows[number]["labels"] for number in range(len(rows))])
    assert dog not in labels and (labels != IGNORE_INDEX).sum() == rows.scored > 0


def test_names_are_replaced_in_the_prompt_too(tokenizer):
    from tinystories.data.renaming import NameTokens

    stories = Dataset.from_list(
        [
            {"text": f"Once there was a girl named Lily. Lily had {at} cats.", "prompt": "About: Lily\n"}
            for at in range(9)
        ]
    )
    rows = PackedStories(
        tokenize_stories(stories, tokenizer, "names"),
        context=64,
        overlap=8,
        pad_token_id=tokenizer.pad_token_id,
        rename=NameTokens(tokenizer),
    )
    names = set()
    for ids, _ in documents(rows):
        about, story = tokenizer.decode(ids, skip_special_tokens=True).split("\n")
        name = about.removeprefix("About: ")
        assert story.startswith(f"Once there was a girl named {name}. {name} had")
        names.add(name)
    assert len(names) > 3


def test_pack_stories_takes_prompts(tokenizer):
    rows = pack_stories(instructed(), tokenizer, max_length=256)
    assert rows.scored < rows.tokens - len(STORIES) * 5


def test_streamed_rows_have_the_same_labels(tokenizer):
    stored = pack_stories(instructed(), tokenizer, max_length=256, row_length=512)
    stream = PackedStream(
        instructed().to_iterable_dataset(), tokenizer, context=256, overlap=32, length=512, block_stories=len(ROWS)
    )
    rows = [row for row, _ in zip(stream, range(len(stored)), strict=False)]
    count = sum(int((row["labels"] != IGNORE_INDEX).sum()) for row in rows)
    assert count == stored.scored


def test_a_stream_of_files_has_the_same_prompts(tmp_path):
    from tinystories.data.corpus import _instructed, _stream
    from tinystories.data.readers import ReadOptions, StoryFile
    from tinystories.data.story_dataset import streamed_stories

    file = write(tmp_path / "a.jsonl", ROWS)
    options = ReadOptions(fields=WORDS.fields)
    stream = streamed_stories("a", [StoryFile(file, file)], options)
    corpus = _stream(stream, None, "a", [0, "", "a", None, options, None], None, 20, str(tmp_path / "cache"))
    corpus = _instructed(corpus, WORDS, 0)
    found = [{"text": row["text"], "prompt": row["prompt"]} for row in (*corpus.validation, *corpus.train)]
    assert found == [{"text": row["text"], "prompt": prompt_of(row)} for row in ROWS]
    assert len(corpus.validation) == 20
