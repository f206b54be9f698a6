import bz2
import csv
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, IterableDataset

import tinystories
from tinystories import cli
from tinystories.commands.arguments import reading_options
from tinystories.data import corpus
from tinystories.data.corpus import recipe_corpus
from tinystories.data.sources import split_names
from tinystories.data.streaming import PackedStream
from tinystories.evaluation.evaluate import evaluate_models, held_out_stories
from tinystories.recipe import build_recipe, load_recipe, parse_overrides
from tinystories.serving.settings import read_settings
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


STORIES = [f'Tom had {i} cats.\n\n"Hello, Tom," said the café cat.' for i in range(100)]
COMMIT = "a" * 40


def txt(stories):
    return "\n<|endoftext|>\n".join(stories).encode()


def jsonl(stories, column="text"):
    return "\n".join(json.dumps({column: story, "n": 1}) for story in stories).encode()


def json_list(stories):
    return json.dumps([{"story": story, "instruction": {"words": ["cat"]}} for story in stories]).encode()


def csv_table(stories):
    table = io.StringIO()
    csv.writer(table).writerows([("n", "text"), *((1, story) for story in stories)])
    return table.getvalue().encode()


def parquet(stories, kind=None):
    table = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(stories, kind or pa.string()), "n": [1] * len(stories)}), table)
    return table.getvalue()


def arrow(stories):
    table = pa.table({"text": stories})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


WRITERS = {
    "a.txt": txt,
    "a.txt.gz": lambda stories: gzip.compress(txt(stories)),
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda stories: gzip.compress(jsonl(stories)),
    "a.json": json_list,
    "b.json": lambda stories: json.dumps(stories).encode(),
    "a.csv": csv_table,
    "a.parquet": parquet,
    "b.parquet": lambda stories: parquet(stories, pa.large_string()),
    "a.arrow": arrow,
}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def load(tmp_path):
    return lambda source, **options: corpus.load_corpus(str(source), cache_dir=str(tmp_path / "cache"), **options)


@pytest.fixture
def texts(tmp_path):
    def texts(source, split="train", **options):
        return corpus.load_texts(str(source), split, cache_dir=str(tmp_path / "cache"), **options)["text"][:]

    return texts


# Formats


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_stories(name, write, load):
    name = name if name.endswith(".gz") else f"my [1] {name}"  # which `datasets` would take for a pattern
    found = load(write(name, WRITERS[name.split()[-1]](STORIES)), validation_fraction=0.1)
    for half in found.train, found.validation:
        assert half.column_names == ["text"] and half.features["text"].dtype == "string"
    assert (len(found.train), len(found.validation)) == (90, 10)
    assert found.validation["text"][:] == [story for story in STORIES if story not in set(found.train["text"])]
    assert found.train["text"][:] == [story for story in STORIES if story not in set(found.validation["text"])]
    assert found.name == name
    # the fingerprint is of the stories, not of the file that holds them
    assert found.fingerprint == load(write("c.parquet", parquet(STORIES)), validation_fraction=0.1).fingerprint


def test_text_is_split_at_every_marker(write, texts):
    big = [f"{i} " + "x" * 30_000 + " é" * 2_000 for i in range(120)]  # marks and letters fall across chunks
    content = b"\xef\xbb\xbf" + txt(["\n A\r\n\r\nstory. ", "", " \n", *big, "<|endoftext|last"])
    assert len(content) > 3 << 20
    assert texts(write("a.txt", content)) == ["A\n\nstory.", *big, "<|endoftext|last"]


def test_text_is_not_read_into_memory_as_a_whole(write, texts, tmp_path):
    source = write("a.txt", txt("x" * 5_000 + str(i) for i in range(5_000)))
    tracemalloc.start()
    corpus.load_texts(source, cache_dir=str(tmp_path / "cache"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000 < os.path.getsize(source) / 2


def test_empty_rows_are_dropped_and_counted(write, texts, caplog):
    rows = [{"text": "  A. \n"}, {"text": None}, {"text": " \n"}, {"text": ""}, {"text": "B."}]
    source = write("a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    with caplog.at_level(logging.WARNING):
        assert texts(source) == ["A.", "B."]
    assert "a.jsonl: skipped 3 of 5 rows" in caplog.text


def test_a_column_is_chosen_by_name(write, texts):
    rows = [{"title": f"T{i}", "body": f"B{i}", "story": f"S{i}"} for i in range(3)]
    source = write("a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert texts(source) == ["S0", "S1", "S2"]
    assert texts(source, text_column="body") == ["B0", "B1", "B2"]


# Nothing of a story is lost


def csv_rows(*rows):
    return ("id,text\n" + "".join(row + "\n" for row in rows)).encode()


LOSSES = {
    "comma too many": (
        {"a.csv": csv_rows("1,A cat.", "2,One day, Tom ran home.")},
        r"a.csv, row 2 \(line 3\): 3 fields",
    ),
    "comma in one column": ({"a.csv": b"text\nOne day, Tom ran home.\n"}, r"row 1 \(line 2\): 2 fields"),
    "comma behind": ({"a.csv": csv_rows("1,One day,")}, "3 fields, but the header has 2"),
    "field missing": ({"a.csv": csv_rows("1,A", "2")}, r"row 2 \(line 3\): 1 fields"),
    "row after long texts": ({"a.csv": csv_rows('1,"A\n\nB"', "", "2,C,D")}, r"row 2 \(line 6\): 3 fields"),
    "quote not closed": ({"a.csv": csv_rows("1,A", '2,"B', "3,C")}, "line 3 to 4: a quote is opened, but not closed"),
    "quote closed by another": ({"a.csv": csv_rows('1,"A', '2,"B"', "3,C")}, "line 2 to 3: .* text after a closing"),
    "quote with a backslash": ({"a.csv": csv_rows(r'1,"A \"B\" C"')}, "line 2: there is text after a closing quote"),
    "tab too many": ({"a.tsv": b"id\ttext\n1\tA\tB\n"}, r"a.tsv, row 1 \(line 2\): 3 fields"),
    "column twice": ({"a.csv": b"text,text\nA,B\n"}, "a.csv has 2 columns named text"),
    "column twice but for case": ({"a.csv": b"Text,TEXT\nA,B\n"}, "a.csv has 2 columns named text"),
    "key twice": ({"a.jsonl": b'{"text": "A"}\n{"text": "B", "text": "C"}\n'}, "a.jsonl, line 2: text occurs twice"),
    "key missing": ({"a.jsonl": b'{"text": "A"}\n{"body": "B"}\n'}, "a.jsonl, line 2: no text, only body"),
    "text is a number": ({"a.jsonl": b'{"text": "A"}\n{"text": 5}\n'}, "a.jsonl, line 2: text is a number, not text"),
    "line cut": ({"a.jsonl": jsonl(STORIES)[:-5]}, "a.jsonl, line 100: not valid JSON"),
    "broken line inside": ({"a.jsonl": b'{"text": "A"}\n{"text": "B"\n{"text": "C"}\n'}, "line 2: not valid JSON"),
    "zeros at the end": ({"a.jsonl": b'{"text": "A"}\n' + bytes(64)}, "a.jsonl, line 2: not valid JSON"),
    "half a character": ({"a.jsonl": b'{"text": "A \\ud83d B"}'}, r"line 1: contains an unpaired surrogate \(U\+D83D"),
    "list cut": ({"a.json": json_list(STORIES)[:-1]}, "a.json, item 101: truncated"),
    "list goes on": ({"a.json": json_list(STORIES) * 2}, "a.json continues after the end of its list"),
    "comma missing in list": ({"a.json": b'["A" "B"]'}, "a.json, item 2: .*Expecting ','"),
    "pretty object cut": (
        {"a.json": json.dumps({"text": "A", "n": 1}, indent=1).encode()[:-3]},
        "a.json, line 3: not valid JSON",
    ),
    "gzip cut": ({"a.jsonl.gz": gzip.compress(jsonl(STORIES))[:-9]}, "a.jsonl.gz cannot be read as json: Truncated"),
    "bzip2 cut": ({"a.csv.bz2": bz2.compress(csv_table(STORIES))[:-9]}, "a.csv.bz2 cannot be read as csv: Truncated"),
    "xz cut": ({"a.jsonl.xz": lzma.compress(jsonl(STORIES))[:-9]}, "a.jsonl.xz cannot be read .* ended before"),
    "zstandard cut": ({"a.txt.zst": zstd(txt(STORIES))[:-9]}, "a.txt.zst cannot be read as text: Truncated"),
    "not compressed": ({"a.jsonl.gz": jsonl(STORIES)}, "a.jsonl.gz cannot be read as json: .*incorrect header"),
    "utf-16 without mark": ({"a.txt": txt(STORIES).decode().encode("utf-16-le")}, "looks like UTF-16.*iconv"),
    "utf-16 cut": (
        {"a.txt": txt(STORIES).decode().encode("utf-16")[:-1]},
        "a.txt cannot be read as text: .*truncated",
    ),
    "mark in lines": (
        {"a.txt": b"A<|endoftext|>B"},
        r"a.txt contains <\|endoftext\|>.* --split",
        {"text_split": "line"},
    ),
    "marker missing": ({"a.txt": b"A\n###\nB"}, r"a.txt has no \*\*\* in the 7 characters", {"text_split": "***"}),
    "file too long": ({"a.txt": b"A\n" * 600_000}, "more than 1,000,000 characters", {"text_split": "file"}),
    "line too long": ({"a.txt": b"A" * 1_100_000}, "more than 1,000,000 characters", {"text_split": "line"}),
}


@pytest.mark.parametrize("case", LOSSES.values(), ids=LOSSES)
def test_losing_part_of_a_story_is_an_error(case, write, texts):
    files, message, *options = case
    (source,) = [write(name, content) for name, content in files.items()]
    with pytest.raises(UserError, match=message) as raised:
        texts(source, **dict(*options))
    assert "\n" not in str(raised.value)


def test_unusual_rows_are_read_completely(write, texts):
    assert texts(write("a.csv", csv_rows('1,"One day, ""Tom"" ran\nhome."', "", '2,She said "hi"', "3,a\0b"))) == [
        'One day, "Tom" ran\nhome.',
        'She said "hi"',
        "a\0b",
    ]
    rows = b'{"text": "A \\ud83d\\udc31", "more": {"text": 1}}\n\n{"id": ' + b"9" * 5_000 + b', "text": "B\\u0000"}'
    assert texts(write("a.jsonl", rows)) == ["A \U0001f431", "B\0"]
    assert texts(write("a.json", json.dumps([{"text": "A"}, {"text": "B"}], indent=2).encode())) == ["A", "B"]
    assert texts(write("b.json", json.dumps({"text": "A", "n": 1}, indent=2).encode())) == ["A"]
    assert texts(write("c.json", jsonl(STORIES))) == STORIES  # rows, in spite of the name
    assert texts(write("d.jsonl", json_list(STORIES))) == STORIES  # a list, in spite of the name


def test_words_such_as_na_are_not_missing_values(write, texts):
    cells = ["NA", "null", "None", "nan", "N/A", "true", "1"]
    assert texts(write("a.csv", csv_rows(*(f"1,{cell}" for cell in cells)))) == cells
    assert texts(write("a.tsv", "\n".join(["text", *cells]).encode())) == cells


@pytest.mark.parametrize(
    "name, content, left, message",
    [
        (
            "a.jsonl",
            b'{"text": "A"}\nbroken\n{"text": 5}\n{"text": "B"}\n{"tex',
            ["A", "B"],
            "skipped 3 .*line 2: not",
        ),
        ("a.csv", csv_rows("1,A", "2,B,C", "3,D"), ["A", "D"], r"skipped 1 .*row 2 \(line 3\): 3 fields"),
        ("a.json", b'["A", 5, {"text": "B"}, {"n": 1}]', ["A", "B"], "skipped 2 .*item 2: a number"),
        (
            "a.parquet",
            parquet(["cafe x", "B"]).replace(b"cafe", b"caf\xe9"),
            ["B"],
            "skipped 1 .*row 1: is not valid UTF-8",
        ),
    ],
)
def test_skip_bad_rows_skips_and_counts_them(name, content, left, message, write, texts, caplog):
    source = write(name, content)
    with pytest.raises(UserError, match="--skip_bad_rows"):
        texts(source)
    for _ in range(2):  # read, and from the cache
        with caplog.at_level(logging.WARNING):
            assert texts(source, skip_bad_rows=True) == left
        assert re.search(message, caplog.text)
        caplog.clear()
    with pytest.raises(UserError, match="--skip_bad_rows"):
        texts(source)


def test_skip_bad_rows_does_not_skip_everything_after_an_open_quote(write, texts):
    with pytest.raises(UserError, match="a quote is opened, but not closed"):
        texts(write("a.csv", csv_rows("1,A", '2,"B', *(f"{i},C" for i in range(50)))), skip_bad_rows=True)


# One rule for line ends

ENDS = "One day,\r\n\r\nTom ran.\rHe sat.\u2028He ate.\u2029The end.\r\n"
PLAIN = "One day,\n\nTom ran.\nHe sat.\nHe ate.\nThe end."
WITH_ENDS = {
    "a.txt": f"{ENDS}<|endoftext|>\r\nB".encode(),
    "a.jsonl": b"\r\n".join(json.dumps({"text": text}).encode() for text in (ENDS, "B")),
    "b.jsonl": "\r".join(json.dumps({"text": text}, ensure_ascii=False) for text in (ENDS, "B")).encode(),
    "a.json": json.dumps([ENDS, "B"]).encode(),
    "a.csv": csv_table([ENDS, "B"]),
    "a.tsv": f'text\r\n"{ENDS}"\r\nB\r\n'.encode(),
    "a.parquet": parquet([ENDS, "B"]),
    "b.parquet": parquet([ENDS, "B"], pa.large_string()),
    "a.arrow": arrow([ENDS, "B"]),
    "a.txt.utf16": f"{ENDS}<|endoftext|>\r\nB".encode("utf-16"),
}


@pytest.mark.parametrize("name", WITH_ENDS)
def test_line_ends_are_the_same_in_every_format(name, write, load, texts):
    source = write(name.removesuffix(".utf16"), WITH_ENDS[name])
    assert texts(source) == [PLAIN, "B"]
    found = load(source, streaming=True)
    assert {row["text"] for row in found.train} | set(found.validation["text"]) == {PLAIN, "B"}


# Only the column with the stories counts

OTHERS = [{"n": 1}, {"n": 1.5}, {"n": "x"}, {"n": None}, {"n": {"a": [1]}}, {"m": True}, {}]


def test_other_columns_of_rows_do_not_matter(write, texts):
    rows = [{**other, "text": f"Story {i}."} for i, other in enumerate(OTHERS)]
    expected = [row["text"] for row in rows]
    assert texts(write("a.jsonl", "\n".join(map(json.dumps, rows)).encode())) == expected
    late = [{"text": "A", "n": 1}] * 50_000 + [{"text": "A", "n": {"deep": []}, "more": 2.5}]
    assert len(texts(write("b.jsonl", "\n".join(map(json.dumps, late)).encode()))) == len(late)
    assert texts(write("a.json", json.dumps(rows).encode())) == expected


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_other_columns_of_files_do_not_matter(kind, write, texts, tmp_path):
    for i, other in enumerate(OTHERS):
        row = {**other, "text": f"Story {i}."}
        if kind == "json":
            content = json.dumps([row]).encode()
        elif kind == "jsonl":
            content = json.dumps(row).encode()
        elif kind in ("csv", "tsv"):
            between = "," if kind == "csv" else "\t"
            content = "\n".join(between.join(map(str, part)) for part in (row.keys(), row.values())).encode()
        else:
            table, sink = pa.table({name: [value] for name, value in row.items()}), io.BytesIO()
            if kind == "parquet":
                pq.write_table(table, sink)
            else:
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
            content = sink.getvalue()
        write(f"in/{i}.{kind}", content)
    assert texts(tmp_path / "in") == [f"Story {i}." for i in range(len(OTHERS))]


def test_text_of_any_arrow_type_is_text(write, texts, tmp_path):
    words = pa.array(["A", "B", "A"])
    for i, column in enumerate((words, words.dictionary_encode(), words.cast(pa.binary()), pa.nulls(3))):
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": column}), sink)
        write(f"in/{i}.parquet", sink.getvalue())
    assert texts(tmp_path / "in") == ["A", "B", "A"] * 3
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [["A"]], "n": [1]}), sink)
    with pytest.raises(
        UserError, match="column text of .*a.parquet is of type list<.*--text-column .columns: text, n"
    ):
        texts(write("a.parquet", sink.getvalue()))


def test_dataset_descriptions_are_not_stories(write, texts, tmp_path, caplog):
    write("in/a.jsonl", jsonl(STORIES))
    for name in ("metadata.json", "about.json", "metadata.csv", "README.md", "LICENSE.txt", "dataset_info.json"):
        write(f"in/{name}", b'{\n"name": "tales"}')
    with caplog.at_level(logging.INFO):
        assert texts(tmp_path / "in") == STORIES
    assert "skipped, because they only describe the data: LICENSE.txt, README.md, about.json" in caplog.text


@pytest.mark.parametrize("name, content", [("a.jsonl", b'{"TEXT": "A"}'), ("a.csv", b"Id, Text\n1,A\n")])
def test_columns_are_matched_without_case(name, content, write, texts):
    source = write(name, content)
    assert texts(source) == texts(source, text_column="tEXT") == ["A"]


def test_csv_delimiters(write, texts):
    assert texts(write("a.csv", b"id;text\n1;One day, Tom ran.\n")) == ["One day, Tom ran."]
    assert texts(write("b.csv", b"id\ttext\n1\tOne day, Tom ran.\n")) == ["One day, Tom ran."]


# Encodings and compressions


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_the_byte_order_mark_gives_the_encoding(name, encoding, write, texts):
    content = WRITERS[name](STORIES).decode().encode(encoding)
    if encoding == "utf-16-be":
        content = b"\xfe\xff" + content
    assert texts(write(name, content)) == STORIES


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.ndjson", "a.parquet", "a.arrow"])
def test_compressed_files(name, packer, write, texts):
    content = WRITERS["a.jsonl" if name == "a.ndjson" else name](STORIES)
    assert texts(write(f"{name.upper()}.{packer}", PACKERS[packer](content))) == STORIES


# Where stories end in plain text

TALES = [
    f"Once upon a time there was a cat with {i} hats. She liked them all, and wore one of them each day of the week. "
    f"One day the wind came and took hat number {i} away, over the hill and far into the wood.\n"
    f'"Come back!" cried the cat, and ran and ran until she found it on the head of a bear.\n'
    f"The bear gave it back, and they were friends for {i} years and more."
    for i in range(30)
]
OTHER_TALES = [tale.replace("Once upon a time there", f"In town number {i}") for i, tale in enumerate(TALES)]
ONE_LINE = [tale.replace("\n", " ") for tale in TALES]
PARAGRAPHS = [tale.replace("\n", "\n\n") for tale in OTHER_TALES]
SPLIT = {
    "marks": ({"a.txt": "\n<|endoftext|>\n".join(PARAGRAPHS)}, PARAGRAPHS, "split at <|endoftext|>"),
    "lines": ({"a.txt": "\n".join(ONE_LINE)}, ONE_LINE, "one story per line"),
    "lines, other beginnings": (
        {"a.txt": "\r\n".join(tale.replace("\n", " ") + " " + tale.replace("\n", " ") for tale in OTHER_TALES)},
        [tale.replace("\n", " ") + " " + tale.replace("\n", " ") for tale in OTHER_TALES],
        "one story per line",
    ),
    "blank lines": ({"a.md": "\n\n\n".join(TALES)}, TALES, "stories between blank lines"),
    "blank lines, one line each": ({"a.txt": "\n \n".join(ONE_LINE)}, ONE_LINE, "stories between blank lines"),
    "files": ({f"in/{i:02}.txt": tale for i, tale in enumerate(PARAGRAPHS)}, PARAGRAPHS, "one story per file"),
    "Markdown files": ({f"in/{i:02}.md": tale for i, tale in enumerate(PARAGRAPHS)}, PARAGRAPHS, "one story per file"),
    "few files of a line": (
        {f"in/{i}.txt": tale for i, tale in enumerate(ONE_LINE[:3])},
        ONE_LINE[:3],
        "one story per file",
    ),
    "files of lines": (
        {f"in/{i}.txt": "\n".join(ONE_LINE[10 * i : 10 * i + 10]) for i in range(3)},
        ONE_LINE,
        "one story per line",
    ),
}


@pytest.mark.parametrize("files, stories, how", SPLIT.values(), ids=SPLIT)
def test_auto_split_is_found_and_logged(files, stories, how, write, texts, tmp_path, caplog):
    for name, content in files.items():
        path = write(name, content.encode())
    for _ in range(2):  # read, and from the cache
        with caplog.at_level(logging.INFO):
            assert texts(tmp_path / "in" if len(files) > 1 else path) == stories
        assert how in caplog.text and f"{len(stories)} stories" in caplog.text
        caplog.clear()


UNSURE = {
    "paragraphs": {"a.txt": "\n\n".join(PARAGRAPHS)},
    "paragraphs, half of them beginnings": {"a.txt": "\n\n".join(tale.replace("\n", "\n\n", 1) for tale in TALES)},
    "lines of paragraphs": {"a.txt": "\n".join(OTHER_TALES)},
    "a wrapped book": {"a.txt": "\n".join(textwrap.fill(tale, 60) for tale in ONE_LINE)},
    "a poem": {"a.txt": "The cat sat\non the mat\nand that\nwas that\n" * 20},
    "few files": {f"in/{i}.txt": tale for i, tale in enumerate(PARAGRAPHS[:3])},
    "short lines": {"a.txt": "Tom ran.\nTom sat.\n"},
    "small files of many stories": {
        f"in/{i}.txt": "\n\n".join(tale.replace("\n", "\n\n") for tale in TALES[3 * i : 3 * i + 3]) for i in range(10)
    },
}


@pytest.mark.parametrize("files", UNSURE.values(), ids=UNSURE)
def test_an_uncertain_auto_split_is_an_error(files, write, texts, tmp_path):
    for name, content in files.items():
        path = write(name, content.encode())
    with pytest.raises(UserError, match="where they end is ambiguous: specify it with --split file") as raised:
        texts(tmp_path / "in" if len(files) > 1 else path)
    assert "\n" not in str(raised.value)


def test_given_splits(write, texts, tmp_path):
    source = write("a.txt", b"A\n\nB\nC\n###\nD")
    assert texts(source, text_split="file") == ["A\n\nB\nC\n###\nD"]
    assert texts(source, text_split="line") == ["A", "B", "C", "###", "D"]
    assert texts(source, text_split="blank-lines") == texts(source, text_split="blank_lines") == ["A", "B\nC\n###\nD"]
    assert texts(source, text_split="###") == ["A\n\nB\nC", "D"]
    write("in/a.txt", b"A\n\nB")
    write("in/b.txt", b"C")
    assert texts(tmp_path / "in", text_split="file") == ["A\n\nB", "C"]


# Files and folders


def test_links_to_folders_are_followed_once(write, texts, tmp_path, caplog):
    write("in/a/1.jsonl", b'{"text": "A"}')
    write("elsewhere/deep/2.jsonl", b'{"text": "B"}')
    write("elsewhere/.hidden/3.jsonl", b'{"text": "C"}')
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")  # a circle
    (tmp_path / "in/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/same.jsonl").symlink_to(tmp_path / "in/a/1.jsonl")
    (tmp_path / "in/gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (tmp_path / "in/gone").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path / "in") == ["A", "B"]
    for message in (
        "in/a/up: skipped, because it links to a folder that is already read",
        "in/linked: skipped, because it links to a folder",
        "in/same.jsonl: skipped, because it is the same file as",
        f"in/gone.jsonl: skipped, because it is a broken link to {tmp_path}/nowhere.jsonl",
        f"in/gone: skipped, because it is a broken link to {tmp_path}/nowhere",
    ):
        assert message in caplog.text
    assert texts(tmp_path / "in/linked") == ["B"]
    with pytest.raises(UserError, match="gone is a broken link to"):
        texts(tmp_path / "in/gone")


def test_patterns_match_folders_and_follow_links(write, texts, tmp_path):
    write("in/a/1.jsonl", b'{"text": "A"}')
    write("elsewhere/2.jsonl", b'{"text": "B"}')
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    assert texts(tmp_path / "in/*") == texts(tmp_path / "in/**/*.jsonl") == texts(tmp_path / "in/**") == ["A", "B"]
    write("by/train/1.jsonl", b'{"text": "A"}')
    write("by/dev/1.jsonl", b'{"text": "B"}')
    assert texts(tmp_path / "by/*/*.jsonl", "validation") == ["B"]


def test_an_unreadable_folder_is_an_error(write, texts, tmp_path, monkeypatch):
    write("in/a.jsonl", b'{"text": "A"}')
    write("in/closed/b.jsonl", b'{"text": "B"}')
    scan = os.scandir

    def scandir(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="in/closed cannot be read: Permission denied"):
        texts(tmp_path / "in")


@pytest.mark.parametrize(
    "name, command",
    [
        ("a.docx", "pandoc .*a.docx -o a.txt"),
        ("a.epub", "pandoc"),
        ("a.pdf", "pdftotext a.pdf a.txt"),
        ("a.zip", "unzip"),
    ],
)
def test_documents_are_refused_with_a_command_to_convert_them(name, command, write, texts, tmp_path, caplog):
    path = write(f"in/{name}", b"x")
    for source in path, tmp_path / "in":
        with pytest.raises(UserError, match=f"{name} is not a text file; convert it first: `{command}"):
            texts(source)
    write("in/b.jsonl", jsonl(STORIES))
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path / "in") == STORIES
    assert f"{name} is not a text file; convert it first" in caplog.text


def test_home_folder(write, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("tales/a.jsonl", jsonl(STORIES))
    assert texts("~/tales") == texts("~/tales/*.jsonl") == texts("~/tales/a.jsonl") == STORIES


SPLIT_NAMES = {
    "The dev.txt": None,
    "Test of courage.txt": None,
    "the-test-of-time.txt": None,
    "The_dev.txt": None,
    "test-of-courage.txt": None,
    "spelling-test.txt": None,
    "val-runs-home.txt": None,
    "A train ride.txt": None,
    "My dev set.txt": None,
    "contest.txt": None,
    "validity.txt": None,
    "train.txt": "train",
    "Validation.csv": "validation",
    "dev.jsonl.gz": "validation",
    "test (1).txt": "test",
    "validation-00000-of-00004.parquet": "validation",
    "test-00000-of-00001-0123abcd4567ef89.parquet": "test",
    "stories-validation.txt": "validation",
    "val_stories.json": "validation",
    "TinyStoriesV2-GPT4-valid.txt": "validation",
    "tales.dev.txt": "validation",
    "test-data.csv": "test",
}


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_splits_are_found_in_data_file_names_and_not_in_titles(name):
    assert split_names([Path("A tale.txt"), Path(name)])[1] == (SPLIT_NAMES[name] or "train")


def test_a_file_for_another_split_confirms_a_split_name():
    names = ["en-train.txt", "en-test.txt", "tom-test.txt"]
    assert split_names([Path(name) for name in names]) == ["train", "test", "train"]
    assert split_names([Path("tom.txt"), Path("tom-dev.txt")]) == ["train", "validation"]
    assert split_names([Path("train/a.txt"), Path("val/the test.txt")]) == ["train", "validation"]


def test_the_files_of_each_split_are_logged(write, load, tmp_path, caplog):
    for name in ("The dev.txt", "Test of courage.txt", "b.txt"):
        write(f"in/{name}", txt([*STORIES, ""]))
    with caplog.at_level(logging.INFO):
        load(tmp_path / "in", validation_fraction=0.1)
    assert "in: files used for train: Test of courage.txt, The dev.txt, b.txt" in caplog.text
    assert "in: 270 training stories, 10 validation stories held out from the training stories" in caplog.text
    write("in/stories-dev.txt", txt(["New one.", ""]))
    with caplog.at_level(logging.INFO):
        load(tmp_path / "in")
    assert "b.txt; validation: stories-dev.txt" in caplog.text
    assert "1 validation stories from a separate split" in caplog.text


# What is trained on and what is held out


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
    assert "removed 1 training stories that are also validation stories" in caplog.text
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
    assert "not used: test.txt" in caplog.text


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
    "empty folder": ({"in/.keep": b""}, "in", r"in contains no files that end in .txt, .md, .json"),
    "nothing readable": ({"in/a.xyz": b"x"}, "in", r"contains no files that end in .txt, .md, .json"),
    "glob of nothing": ({"in/a.pdf": b"x"}, "in/*.txt", r"in/\*.txt contains no files"),
    "unknown ending": ({"a.xyz": b"x"}, "a.xyz", r"a.xyz does not end in .txt, .md, .json"),
    "mixed formats": ({"in/a.txt": txt("ab"), "in/b.csv": b"text\nx\n"}, "in", "a.txt and b.csv have different"),
    "only validation": ({"in/valid.txt": txt("ab")}, "in", "in has no train split, only validation"),
    "one story": ({"a.txt": txt(["x", "x", "x"])}, "a.txt", "a.txt contains only one distinct story; at least two"),
    "only marks": ({"a.txt": txt(["", " ", "\n"])}, "a.txt", "a.txt contains no stories"),
    "only blanks": ({"a.csv": b'text,n\n" ",1\n"",2\n'}, "a.csv", "a.csv contains no stories"),
    "empty list": ({"a.json": b"[]"}, "a.json", "a.json contains no stories"),
    "no mark": (
        {"a.txt": b"One.\n\nTwo.\n"},
        "a.txt",
        r"a.txt has no <\|endoftext\|> between its stories.*--split file, ",
    ),
    "no mark for long": (
        {"a.txt": b"x<|endoftext|>" + b"x" * 9**7},
        "a.txt",
        "no .* in the 1,0.* characters after the beginning of story 2",
    ),
    "not utf-8": ({"a.txt": txt(STORIES) + b"caf\xe9 x"}, "a.txt", "a.txt, story 100: is not valid UTF-8: byte 0xe9"),
    "not utf-8 after bom": (
        {"a.txt": b"\xef\xbb\xbfca\xe9 <|endoftext|>"},
        "a.txt",
        "story 1: is not valid UTF-8: byte 0xe9",
    ),
    "not utf-8 in csv": (
        {"a.csv": b"text\ncaf\xe9 x\n"},
        "a.csv",
        r"a.csv, row 1 \(line 2\): is not valid UTF-8: byte 0xe9",
    ),
    "not utf-8 in jsonl": (
        {"a.jsonl": jsonl(STORIES) + b'\n{"text": "c\xe9 x"}'},
        "a.jsonl",
        "a.jsonl, line 101: is not valid UTF-8: byte 0xe9",
    ),
    "not utf-8 in parquet": (
        {"a.parquet": parquet(["cafe x"]).replace(b"cafe", b"caf\xe9")},
        "a.parquet",
        "a.parquet, row 1: is not valid UTF-8: byte 0xe9",
    ),
    "broken gzip": ({"a.txt.gz": gzip.compress(txt(STORIES))[:40]}, "a.txt.gz", "a.txt.gz cannot be read as text"),
    "broken json": ({"a.json": json_list(STORIES)[:-9]}, "a.json", "a.json, item 100: truncated, or not valid JSON"),
    "broken jsonl": ({"a.jsonl": jsonl(STORIES)[:-9]}, "a.jsonl", "a.jsonl, line 100: not valid JSON"),
    "broken csv": ({"a.csv": b'text,n\na,1\n"b,2\n'}, "a.csv", "a.csv, line 3: a quote is opened, but not closed"),
    "broken parquet": ({"a.parquet": parquet(STORIES)[:-9]}, "a.parquet", "a.parquet cannot be read as parquet"),
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
        "a.jsonl, line 1: text is a list, not text",
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
        ({"validation_fraction": 0.0}, "validation_fraction must be between 0 and 1"),
        ({"max_stories": 0}, "max_stories must be at least 1"),
        ({"max_validation_stories": -1}, "max_validation_stories must be at least 1"),
        ({"validation": "same.txt"}, "Every training story of a.txt is also a validation story"),
        ({"validation": "none.txt"}, "no file or folder none.txt"),
    ],
)
def test_invalid_options_are_errors(options, message, write, load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write("same.txt", txt(STORIES))
    with pytest.raises(UserError, match=message):
        load(write("a.txt", txt(STORIES)), **options)


# The sample


def test_sample(load, texts):
    found = load("sample")
    assert "synthetic" in found.name
    train, validation = found.train["text"][:], found.validation["text"][:]
    assert (len(train), len(validation)) == (20_000, 1_000)
    assert len({*train, *validation}) == 21_000
    assert all(story and story == story.strip() for story in [*train, *validation])
    assert texts("sample", "validation") == validation and texts("sample", max_stories=9) == train[:9]


def test_the_seed_chooses_the_sample(load, monkeypatch):
    monkeypatch.setattr(corpus, "SAMPLE_STORIES", 50)
    monkeypatch.setattr(corpus, "SAMPLE_VALIDATION_STORIES", 5)
    assert load("sample").fingerprint == load("sample").fingerprint != load("sample", seed=1).fingerprint


# A local server with the part of the Hub's API that `datasets` uses


REPOS = {
    "owner/stories": {
        "data/train-00000-of-00001.parquet": parquet(STORIES),
        "data/validation-00000-of-00001.parquet": parquet([STORIES[0], "New one."]),
    },
    "owner/unsplit": {"stories.jsonl": jsonl(STORIES, "story")},
    "owner/lines": {"stories.txt": txt(STORIES)},
    "owner/table": {"a.csv": b"id,text\n1,A cat\n2,NA\n", "b.csv": b'text,more\n"One\rday, x",0.5\n'},
    "owner/ragged": {"a.csv": b"id,text\n1,One day, Tom ran home.\n"},
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, repo, rest = re.fullmatch(
            r"(/api/datasets|/datasets|)/([^/]+/[^/]+)/?(.*)", unquote(urlsplit(self.path).path)
        ).groups()
        files = REPOS.get(repo, {})
        action, _, path = rest.partition("/")
        revision, _, path = path.partition("/")
        if repo == "owner/gated":
            self.answer(403, **{"X-Error-Code": "GatedRepo"})
        elif not files:
            self.answer(404, **{"X-Error-Code": "RepoNotFound"})
        elif revision not in ("", "main", COMMIT):
            self.answer(404, **{"X-Error-Code": "RevisionNotFound"})
        elif action == "resolve" and path in files:
            self.answer_file(files[path])
        elif action == "tree":
            entries = [entry for entry in self.entries(files) if os.path.dirname(entry["path"]) == path]
            self.answer(200, entries) if entries else self.answer(404, **{"X-Error-Code": "EntryNotFound"})
        elif kind == "/api/datasets" and action in ("", "revision"):
            self.answer(200, {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        else:
            self.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    do_HEAD = do_POST = do_GET

    @staticmethod
    def entries(files):
        for path, content in files.items():
            yield {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for folder in {os.path.dirname(path) for path in files} - {""}:
            yield {"type": "directory", "path": folder, "size": 0, "oid": "0"}

    def answer_file(self, content):
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if wanted := self.headers.get("Range"):
            start, end = (int(end or len(content) - 1) for end in wanted.removeprefix("bytes=").split("-"))
            end = min(end, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.answer(206, content[start : end + 1], **headers)
        else:
            self.answer(200, content, **headers)

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


CLIENT = """
import json, sys
from tinystories.data.corpus import UserError, load_corpus
for source, options in json.loads(sys.argv[1]):
    try:
        found = load_corpus(source, **options)
        result = [[row["text"] for row in found.train], found.validation["text"][:], found.name, found.fingerprint]
    except UserError as error:
        result = str(error)
    print("RESULT", json.dumps(result), flush=True)
"""


def client(endpoint, home, calls, **environment):
    """Runs in a separate process, because the address of the Hub is read on import."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    here = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(tinystories.__file__).parents[1])}
    environment = {**inherited, **here, "HF_UPDATE_DOWNLOAD_COUNTS": "0", **environment}
    command = [sys.executable, "-c", CLIENT, json.dumps(calls)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(process):
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return [json.loads(line.removeprefix("RESULT ")) for line in out.splitlines() if line.startswith("RESULT ")]


@pytest.fixture(scope="module", autouse=True)
def unreachable(tmp_path_factory):
    """Started before all tests, because huggingface_hub retries for 23 seconds."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    process = client(endpoint, tmp_path_factory.mktemp("unreachable"), [("owner/stories", {})])
    yield process
    process.kill()


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hub(hub, tmp_path):
    found, pinned, unsplit, lines, table, *errors = results(
        client(
            hub,
            tmp_path,
            [
                ("owner/stories", {}),
                ("owner/stories:default@main", {"max_stories": 5}),
                ("owner/unsplit", {}),
                ("owner/lines", {"validation_fraction": 0.1}),
                ("owner/table", {"validation_fraction": 0.1}),
                ("owner/ragged", {}),
                ("owner/missing", {}),
                ("owner/gated", {}),
                ("owner/stories@v9", {}),
                ("owner/stories:nope", {}),
                ("owner/stories", {"text_column": "tale"}),
            ],
        )
    )
    assert found[:3] == [STORIES[1:], [STORIES[0], "New one."], "owner/stories"]
    assert pinned[:3] == [STORIES[1:6], [STORIES[0], "New one."], "owner/stories:default@main"]
    assert len(unsplit[0]) == 98 and len(unsplit[1]) == 2 and {*unsplit[0], *unsplit[1]} == set(STORIES)
    assert len(lines[0]) == 90 and {*lines[0], *lines[1]} == set(STORIES)
    assert sorted([*table[0], *table[1]]) == ["A cat", "NA", "One\nday, x"]
    messages = [
        r"owner/ragged/a.csv, row 1 \(line 2\): 3 fields, but the header has 2",
        "'owner/missing' doesn't exist on the Hub .* no such file or folder on this machine either",
        "'owner/gated' is a gated dataset .*ask for access.*hf auth login",
        "Revision 'v9' doesn't exist",
        "owner/stories cannot be loaded: .*'nope' not found. Available: .*default",
        "owner/stories/data/train-00000-of-00001.parquet has no column tale: .*: text, n.$",
    ]
    for error, message in zip(errors, messages, strict=True):
        assert re.search(message, error.rstrip(".")) and "\n" not in error

    calls = [("owner/stories", {}), ("owner/other", {})]
    offline, error = results(client(hub, tmp_path, calls, HF_HUB_OFFLINE="1"))
    assert offline == found
    assert re.search("There is no file or folder owner/other, and the Hub cannot be reached.*HF_HUB_OFFLINE", error)


def test_hub_stream(hub, tmp_path):
    found, other, unsplit, again, table, lines, ragged, short = results(
        client(
            hub,
            tmp_path,
            [
                ("owner/stories", {"streaming": True}),
                ("owner/stories", {"streaming": True, "max_stories": 5}),
                ("owner/unsplit", {"streaming": True, "max_validation_stories": 7}),
                ("owner/unsplit", {"streaming": True, "max_validation_stories": 7}),
                ("owner/table", {"streaming": True, "max_validation_stories": 1}),
                ("owner/lines", {"streaming": True, "max_validation_stories": 1}),
                ("owner/ragged", {"streaming": True}),
                ("owner/unsplit", {"streaming": True}),
            ],
        )
    )
    assert found[:3] == [STORIES[1:], [STORIES[0], "New one."], "owner/stories"]
    assert other[:2] == [STORIES[1:6], found[1]] and other[3] != found[3]
    assert unsplit[:2] == [STORIES[7:], STORIES[:7]] and again == unsplit
    assert table[:2] == [["NA", "One\nday, x"], ["A cat"]]
    assert lines[:2] == [STORIES[1:], STORIES[:1]]
    assert re.search(r"owner/ragged/a.csv, row 1 \(line 2\): 3 fields", ragged)
    assert "owner/unsplit has no stories beyond its 100 validation stories" in short


def test_an_unreachable_hub_is_an_error(unreachable):
    (error,) = results(unreachable)
    assert re.search("There is no file or folder owner/stories, and the Hub cannot be reached", error)
    assert "\n" not in error


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
    assert status == 2 and "where they end is ambiguous: specify it with --split file" in log
    for options in (["--split", "file"], ["--one-story-per-file"]):
        status, log = run(tmp_path / "in", *options)
        assert status < 2, log
        assert "in: files used for train: The dev.txt, b.txt" in log
        assert "one story per file (as given): 2 stories" in log
    assert run(tmp_path / "a.jsonl")[0] == run(tmp_path / "a.jsonl", "--text-column=body")[0] == 2
    status, log = run(tmp_path / "a.jsonl", "--text-column=body", "--skip-bad-rows")
    assert status < 2 and "skipped 1 unreadable rows" in log


def test_reading_options_of_evaluate(write, tmp_path):
    write("in/a.txt", b"A\n\nB")
    write("in/b.txt", b"C")
    name, stories = held_out_stories([], str(tmp_path / "in"), text_split="file")
    assert (name, stories) == ("in", ["A\n\nB", "C"])
    options = cli.parse("evaluate x --split line --skip-bad-rows --text-column body".split())
    assert reading_options(options) == {"text_column": "body", "split": "line", "skip_bad_rows": True}
    with pytest.raises(UserError, match="a.jsonl, line 1: not valid JSON"):
        evaluate_models(["someone/x"], corpus=write("a.jsonl", b"broken\n"), split="file", progress=False)


# A stream of stories


@pytest.fixture
def packed_stream():
    tokenizer = train_bpe(OTHER_TALES, 300, progress=False)

    def packed_stream(stories=None):
        stories = stories or Dataset.from_dict({"text": OTHER_TALES}).to_iterable_dataset()
        return PackedStream(stories, tokenizer, context=64, overlap=8, block_stories=2)

    return packed_stream


def test_a_stream_resumes_at_any_row_after_prefetching(packed_stream, tmp_path):
    expected = [row["input_ids"].tolist() for row in islice(packed_stream(), 120)]
    for seen in (0, 1, 40, 119):
        stream = packed_stream()
        list(islice(stream, 120))  # a loader may prefetch dozens of blocks
        stream.save_state(tmp_path, seen)
        again = packed_stream()
        again.load_state(tmp_path)
        again.save_state(tmp_path, seen)  # before a row has been read
        again.load_state(tmp_path)
        assert [row["input_ids"].tolist() for row in islice(again, 120 - seen)] == expected[seen:]


def test_a_stream_that_becomes_empty_is_an_error(packed_stream):
    left = [OTHER_TALES, OTHER_TALES]  # for the first look, and the first time through

    def rows():
        yield from ({"text": tale} for tale in (left.pop() if left else []))

    with pytest.raises(UserError, match="no longer has any stories"):
        list(islice(packed_stream(IterableDataset.from_generator(rows)), 1_000))
