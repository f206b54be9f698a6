"""Annotations of stories by rule, and the command that writes them."""

import json

import pyarrow.parquet as pq
import pytest
from helpers import fails_with_one_line, tinystories

from tinystories.data.corpus import load_corpus
from tinystories.data.synthetic import sample_stories
from tinystories.text.annotate import Annotator, features, first_sentence


STORIES = [f"Once there was a cat. The cat saw a {thing}. It was big." for thing in ("ball", "dragon", "mill") * 40]


def test_words_are_rare_content_words_of_the_story():
    annotate = Annotator([*STORIES, "Once there was a Zebra. It played with whom the gloomy cat saw in a teapot."])
    assert set(annotate.rare_words(STORIES[1])) <= {"once", "cat", "saw", "dragon", "big"}
    words = annotate.rare_words("Zebra saw whom the gloomy cat and a teapot and a dragon because of Tim's cat-food.")
    assert set(words) <= {"gloomy", "teapot", "dragon", "cat", "saw"} and len(words) == 3
    assert annotate.rare_words("Ha! Tim.") == []


def test_words_do_not_depend_on_the_other_stories_order():
    stories = list(sample_stories(300))
    one, other = Annotator(stories), Annotator(reversed(stories))
    assert [one(story) for story in stories] == [other(story) for story in stories]
    assert all(word in story for story in stories for word in one.rare_words(story)) and {
        len(one.rare_words(story)) for story in stories
    } == {3}


def test_mistyped_words_are_left_out():
    stories = [f"The little dog ran to the park {number % 7 * 'again '}with joy." for number in range(4_000)]
    stories[0] += " Hapyp dogs slepd."
    assert not {"slepd", "dogs"} & set(Annotator(stories).rare_words(stories[0]))


@pytest.mark.parametrize(
    ("story", "sentence"),
    [
        ('"Hi!" said Mr. Fox. He ran.', '"Hi!"'),
        ("Mr. Fox ran home. He slept.", "Mr. Fox ran home."),
        ("a story without an end", "a story without an end"),
        ("", ""),
    ],
)
def test_the_summary_is_the_first_sentence(story, sentence):
    assert first_sentence(story) == sentence


@pytest.mark.parametrize(
    ("ending", "found"),
    [
        ("They played. They ran. They slept.", []),
        ('"Hello," said Tom. He ran. He sat down. He went home.', ["dialogue"]),
        ('Tom had a 5" ruler. It was new.', []),
        ("Tom learned that it is good to share.", ["moral"]),
        ("The moral of the story is to share.", ["moral"]),
        ("Tom learned his lesson and never lied again.", ["moral"]),
        ("Tom learned to swim.", []),
        ("Tom lost his ball. He cried all night.", ["sad ending"]),
        ("They were happy and lived in a house.", ["happy ending"]),
        ("Tom was not happy. He went to bed.", []),
        ("Tom was no longer sad. He was happy.", ["happy ending"]),
        ("Tom was sad. Mom hugged him.", []),
        ("Tom was sad. They ate. They ran. They slept. They sang.", []),
    ],
)
def test_features(ending, found):
    assert features(f"Once upon a time there was a boy. {ending}") == found


def test_the_command_keeps_the_splits(tmp_path):
    source, stories = tmp_path / "stories", list(sample_stories(120))
    source.mkdir()
    for split, part in {"train": stories[:100], "validation": stories[100:]}.items():
        (source / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    result = tinystories("annotate", source, tmp_path / "out")
    assert result.returncode == 0 and "train: 100 stories" in result.stdout, result.stderr
    for split, part in {"train": stories[:100], "validation": stories[100:]}.items():
        rows = pq.read_table(tmp_path / "out" / f"{split}.parquet").to_pylist()
        assert [row["text"] for row in rows] == part and set(rows[0]) == {"text", "words", "summary", "features"}
        assert all(word in row["text"] for row in rows for word in row["words"].split(", "))
    corpus = load_corpus(str(tmp_path / "out"))
    assert (len(corpus.train), len(corpus.validation)) == (100, 20)

    result = tinystories("annotate", source, tmp_path / "json", "--format", "jsonl", "--max-stories", "10")
    assert result.returncode == 0
    lines = (tmp_path / "json" / "train.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == stories[:10]
    fails_with_one_line(tinystories("annotate", source, tmp_path / "a.parquet"), "validation stories", "folder")


def test_a_corpus_without_validation_stories_fits_a_file(tmp_path):
    stories = list(sample_stories(30))
    (tmp_path / "my.txt").write_text("\n<|endoftext|>\n".join(stories), "utf-8")
    for name in ("out.jsonl", "out.parquet"):
        result = tinystories("annotate", tmp_path / "my.txt", tmp_path / name)
        assert result.returncode == 0 and "30 stories" in result.stdout, result.stderr
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows == [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == stories


def test_mistakes_are_one_line_and_nothing_is_lost(tmp_path):
    (tmp_path / "kept.jsonl").write_text("mine")
    fails_with_one_line(tinystories("annotate", "sample", tmp_path / "kept.jsonl"), "not overwritten")
    fails_with_one_line(tinystories("annotate", "sample", tmp_path), "new or empty")
    fails_with_one_line(tinystories("annotate", "sample", tmp_path / "a", "--format", "csv"), "parquet or jsonl")
    fails_with_one_line(tinystories("annotate", tmp_path / "none.txt", tmp_path / "a"), "none.txt")
    for name in ("a.csv", "a.txt", "a.jsonl.gz"):
        fails_with_one_line(
            tinystories("annotate", "sample", tmp_path / name), f"{name} cannot be written", ".parquet"
        )
    assert (tmp_path / "kept.jsonl").read_text() == "mine" and {*tmp_path.iterdir()} == {tmp_path / "kept.jsonl"}
