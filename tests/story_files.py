"""Stories, and functions that write them as files of each format."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq


STORIES = [f'Tom had {i} cats.\n\n"Hello, Tom," said the café cat.' for i in range(100)]
TALES = [
    f"Once upon a time there was a cat with {i} hats. She liked them all, and wore one of them each day of the week. "
    f"One day the wind came and took hat number {i} away, over the hill and far into the wood.\n"
    f'"Come back!" cried the cat, and ran and ran until she found it on the head of a bear.\n'
    f"The bear gave it back, and they were friends for {i} years and more."
    for i in range(30)
]
OTHER_TALES = [tale.replace("Once upon a time there", f"In town number {i}") for i, tale in enumerate(TALES)]


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
