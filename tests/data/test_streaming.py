from itertools import islice

import pytest
from datasets import Dataset, IterableDataset
from story_files import OTHER_TALES

from tinystories.data.streaming import PackedStream
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


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
    left = [OTHER_TALES, OTHER_TALES]  # one is read at the beginning, one by the first pass

    def rows():
        yield from ({"text": tale} for tale in (left.pop() if left else []))

    with pytest.raises(UserError, match="no longer has any stories"):
        list(islice(packed_stream(IterableDataset.from_generator(rows)), 1_000))
