import bz2
import gzip
import io
import json
import logging
import lzma
import os
import re
import textwrap
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from story_files import OTHER_TALES, STORIES, TALES, WRITERS, arrow, csv_table, json_list, jsonl, parquet, txt, zstd

from tinystories.data import corpus
from tinystories.utils.errors import UserError


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


@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_a_file_is_not_read_into_memory_as_a_whole(name, write, tmp_path):
    stories = [os.urandom(2_500).hex() + str(number) for number in range(6_000)]
    source = write(name, txt(stories) if name == "a.txt" else parquet(stories))
    assert name == "a.txt" or pq.ParquetFile(source).num_row_groups == 1
    tracemalloc.start()
    corpus.load_texts(source, cache_dir=str(tmp_path / "cache"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * 30_000_000 < os.path.getsize(source) / 1.2


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
    "field missing": ({"a.csv": csv_rows("1,A", "2")}, r"row 2 \(line 3\): 1 field"),
    "row after long texts": ({"a.csv": csv_rows('1,"A\n\nB"', "", "2,C,D")}, r"row 2 \(line 6\): 3 fields"),
    "quote not closed": ({"a.csv": csv_rows("1,A", '2,"B', "3,C")}, "lines 3 to 4: a quotation mark is not closed"),
    "quote closed by another": ({"a.csv": csv_rows('1,"A', '2,"B"', "3,C")}, "lines 2 to 3: .* text after a closing"),
    "quote with a backslash": (
        {"a.csv": csv_rows(r'1,"A \"B\" C"')},
        "line 2: .* text after a closing quotation mark",
    ),
    "tab too many": ({"a.tsv": b"id\ttext\n1\tA\tB\n"}, r"a.tsv, row 1 \(line 2\): 3 fields"),
    "column twice": ({"a.csv": b"text,text\nA,B\n"}, "a.csv has 2 columns named text"),
    "column twice but for case": ({"a.csv": b"Text,TEXT\nA,B\n"}, "a.csv has 2 columns named text"),
    "key twice": ({"a.jsonl": b'{"text": "A"}\n{"text": "B", "text": "C"}\n'}, "a.jsonl, line 2: `text` occurs twice"),
    "key missing": ({"a.jsonl": b'{"text": "A"}\n{"body": "B"}\n'}, "a.jsonl, line 2: no `text`, only body"),
    "text is a number": (
        {"a.jsonl": b'{"text": "A"}\n{"text": 5}\n'},
        "a.jsonl, line 2: `text` is a number, not a string",
    ),
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
    "gzip cut": (
        {"a.jsonl.gz": gzip.compress(jsonl(STORIES))[:-9]},
        "a.jsonl.gz cannot be read as .jsonl.gz: Truncated",
    ),
    "bzip2 cut": (
        {"a.csv.bz2": bz2.compress(csv_table(STORIES))[:-9]},
        "a.csv.bz2 cannot be read as .csv.bz2: Truncated",
    ),
    "xz cut": ({"a.jsonl.xz": lzma.compress(jsonl(STORIES))[:-9]}, "a.jsonl.xz cannot be read .* ended before"),
    "zstandard cut": ({"a.txt.zst": zstd(txt(STORIES))[:-9]}, "a.txt.zst cannot be read as .txt.zst: Truncated"),
    "not compressed": ({"a.jsonl.gz": jsonl(STORIES)}, "a.jsonl.gz cannot be read as .jsonl.gz: .*incorrect header"),
    "utf-16 without mark": ({"a.txt": txt(STORIES).decode().encode("utf-16-le")}, "looks like UTF-16.*iconv"),
    "utf-16 cut": (
        {"a.txt": txt(STORIES).decode().encode("utf-16")[:-1]},
        "a.txt cannot be read as .txt: .*truncated",
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
            "skipped 1 .*row 1: not valid UTF-8",
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
    with pytest.raises(UserError, match="a quotation mark is not closed"):
        texts(write("a.csv", csv_rows("1,A", '2,"B', *(f"{i},C" for i in range(50)))), skip_bad_rows=True)


# Line ends

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


# Other columns

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
    assert "skipped files that only describe the data: LICENSE.txt, README.md, about.json" in caplog.text


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
    "blank lines": ({"a.markdown": "\n\n\n".join(TALES)}, TALES, "stories between blank lines"),
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
    with pytest.raises(UserError, match="where a story ends is ambiguous: set --split to file") as raised:
        texts(tmp_path / "in" if len(files) > 1 else path)
    assert "\n" not in str(raised.value)


CHOICES = {
    "a line without letters": ("\n***\n".join(PARAGRAPHS), "blank-lines (61 stories), '***' (30 stories) or another"),
    "spaced": ("\n\n * * * \n\n".join(PARAGRAPHS), "'* * *' (30 stories)"),
    "a tag": ("\n</s>\n".join(PARAGRAPHS), "'</s>' (30 stories)"),
    "a word in brackets": ("\n[END]\n".join(PARAGRAPHS), "'[END]' (30 stories)"),
    "no marker": ("\n\n".join(PARAGRAPHS), "file (1 story), line (90 stories), blank-lines (90 stories) or another"),
}


@pytest.mark.parametrize(("text", "choices"), CHOICES.values(), ids=CHOICES)
def test_the_error_says_how_many_stories_each_split_would_give(text, choices, write, texts):
    source = write("a.txt", text.encode())
    with pytest.raises(UserError) as raised:
        texts(source)
    assert choices in str(raised.value) and "sample" not in str(raised.value)
    if marker := re.search(r"'(.+)' \(30 stories", str(raised.value)):
        assert texts(source, text_split=marker[1]) == PARAGRAPHS


def test_the_numbers_of_a_long_file_are_those_of_a_sample(write, texts):
    with pytest.raises(UserError, match="the numbers are those of a sample"):
        texts(write("a.txt", "\n\n".join(PARAGRAPHS * 150).encode()))


def test_given_splits(write, texts, tmp_path):
    source = write("a.txt", b"A\n\nB\nC\n###\nD")
    assert texts(source, text_split="file") == ["A\n\nB\nC\n###\nD"]
    assert texts(source, text_split="line") == ["A", "B", "C", "###", "D"]
    assert texts(source, text_split="blank-lines") == texts(source, text_split="blank_lines") == ["A", "B\nC\n###\nD"]
    assert texts(source, text_split="###") == ["A\n\nB\nC", "D"]
    write("in/a.txt", b"A\n\nB")
    write("in/b.txt", b"C")
    assert texts(tmp_path / "in", text_split="file") == ["A\n\nB", "C"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", txt(STORIES)),
        ("a.jsonl.gz", gzip.compress(jsonl(STORIES))),
        ("a.csv", csv_table(STORIES)),
        ("a.parquet", parquet(STORIES)),
    ],
)
def test_progress_of_reading_is_that_of_the_files(write, load, capsys, name, content):
    write(f"in/b{name}", content)
    load(write(f"in/{name}", content).rpartition("/")[0])
    bar = re.split("[\r\n]", capsys.readouterr().err)
    (last,) = [line for line in bar if line.startswith("Reading stories: 100%")]
    size = re.search(r"([\d.]+)(k?)/\1\2 \[\d\d:\d\d<\d\d:\d\d", last)
    assert float(size[1]) * (1_000 if size[2] else 1) == pytest.approx(2 * len(content), rel=0.01)
