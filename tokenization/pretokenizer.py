"""GPT-2's pre-tokenizer for many texts at once, and an encoder that encodes each distinct word once.

- Where a word begins follows from the classes of two or three adjacent characters, which numpy compares for a whole
  batch: several times as fast as the regular expression of `tokenizers`.
- The class of a character beyond ASCII is looked up in `tokenizers` once, so both use the same Unicode version.
- Distinct words are encoded by `tokenizers`, once each.
"""

import json
import threading
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


SLICE_BYTES = 1 << 20  # bytes of text processed together; they fit into a CPU's cache
MAX_WORDS = 200_000  # distinct words that are cached, about 40 MB; TinyStories has fewer

SPACE, LETTER, NUMBER, OTHER, UNKNOWN = range(5)
_REFERENCE = pre_tokenizers.ByteLevel(add_prefix_space=False)
_KIND = np.full(0x110000, UNKNOWN, dtype=np.uint8)
_KIND[:0x80] = OTHER
_KIND[[*b" \t\n\v\f\r"]] = SPACE
_KIND[[*b"0123456789"]] = NUMBER
_KIND[[*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]] = LETTER
# GPT-2's letter for each byte: itself if it is printable, otherwise the next one from U+0100 on.
_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = iter(range(0x100, 0x200))
BYTE_LETTERS = [chr(byte if byte in _PRINTED else next(_OTHERS)) for byte in range(256)]
_LETTER = [letter.encode() for letter in BYTE_LETTERS]
_LETTER_WIDTH = np.array([len(letter) for letter in _LETTER], dtype=np.uint8)
_LETTER_FIRST, _LETTER_LAST = (np.array([letter[at] for letter in _LETTER], dtype=np.uint8) for at in (0, -1))
_TEST_TEXTS = [
    "Once upon a time, there was a cat.\n\n\"I'll go,\" she said; 'tis 3:05pm  now.\t \n They've they're it'd I'm",
    " 's ''s 's\n's x'll'll'd l'l r'e don't \r\n  \u00a0 caf\u00e9 na\u00efve \u201cquoted\u201d \u2019s",
    "\u4e2d\u6587 \u0660\u0661\u00b2 \U0001f600\U0001f600 e\u0301 \u200b\u3000\u3000a  ",
    "<|endoftext|> <unk><|padding|>[CLS]</s>",
]


def slices(texts: pa.ChunkedArray) -> Iterator[pa.Array]:
    """`texts` in arrays of about `SLICE_BYTES`, at least one text each."""
    texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    begin, offsets = 0, _offsets(texts).astype(np.int64)
    while begin < len(texts):
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + SLICE_BYTES, "right")) - 1)
        yield texts.slice(begin, end - begin)
        begin = end


def split_words(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Split strings (no nulls) into words.

    Returns:
        All words in order, as Arrow binaries, and the index of each text's first word `[texts + 1]`, which ends with
        the number of words.
    """
    offsets = _offsets(texts)
    size, starts = int(offsets[-1] - offsets[0]), (offsets - offsets[0]).astype(np.int64)
    if not size:
        return pa.array([], pa.binary()), np.zeros(len(offsets), dtype=np.int64)
    data = texts.buffers()[2].slice(int(offsets[0]), size)
    text = np.frombuffer(data, np.uint8)
    at, lead, kind = _characters(text)
    begins = np.flatnonzero(_word_begins(lead, kind, starts[:-1] if at is None else np.searchsorted(at, starts[:-1])))
    if at is not None:
        begins = at[begins]
    bounds = np.append(begins, size).astype(np.int32)
    words = pa.Array.from_buffers(pa.binary(), len(begins), [None, pa.py_buffer(bounds), data])
    return words, np.searchsorted(begins, starts)


def byte_level_words(words: pa.Array) -> str:
    """The words of `split_words` in the byte-level alphabet (a space is "Ġ"), each preceded by a space."""
    if not len(words):
        return ""
    offsets = _offsets(words)
    text = np.frombuffer(words.buffers()[2], np.uint8)[: offsets[-1]]
    width = _LETTER_WIDTH[text]
    two = np.flatnonzero(width == 2)
    width[offsets[:-1]] += 1
    last = np.cumsum(width, dtype=np.int64) - 1
    letters = np.full(last[-1] + 1, ord(" "), dtype=np.uint8)
    letters[last] = _LETTER_LAST[text]
    letters[last[two] - 1] = _LETTER_FIRST[text[two]]
    return letters.tobytes().decode()


def _offsets(texts: pa.Array) -> np.ndarray:
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _characters(text: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """The offset of each character of UTF-8 `text` `[bytes]` (None for ASCII), its first byte, and its class."""
    if text.max() < 0x80:
        return None, text, _KIND[text]
    at = np.flatnonzero((text & 0xC0) != 0x80)
    lead = text[at]
    kind = _KIND[lead]
    points = np.frombuffer(text[text >= 0x80].tobytes().decode().encode("utf-32-le"), np.uint32)
    for new in np.unique(points[_KIND[points] == UNKNOWN]):
        _KIND[new] = _reference_kind(chr(new))
    kind[lead >= 0x80] = _KIND[points]
    return at, lead, kind


def _reference_kind(character: str) -> int:
    """The class of a character: `tokenizers` keeps it in one word with others of its class."""
    for kind, example in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
        if len(_REFERENCE.pre_tokenize_str(example + character)) == 1:
            return kind
    return SPACE


def _word_begins(lead: np.ndarray, kind: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether a word begins at each character.

    Args:
        lead: first bytes `[characters]`.
        kind: classes `[characters]`.
        starts: index of the first character of each text; `len(lead)` for empty ones at the end.
    """
    count = len(lead)
    new_text = np.zeros(count + 3, dtype=bool)
    new_text[starts] = new_text[count:] = True
    begins = np.ones(count, dtype=bool)
    is_space = kind == SPACE
    before_word = is_space[:-1] & ~is_space[1:]
    # A word is a run of one class ...
    np.not_equal(kind[1:], kind[:-1], out=begins[1:])
    # ... with an optional space before it ...
    begins[1:] &= ~(before_word & (lead[:-1] == ord(" ")))
    # ... taken from the end of a longer run of whitespace; any other last whitespace is a separate word.
    begins[:-1] |= before_word & ~new_text[1:count]
    begins |= new_text[:count]
    # A word that begins with an apostrophe ends after s, t, m, d, ll, re or ve.
    quotes = np.flatnonzero(lead == ord("'"))
    quotes = quotes[new_text[quotes] | ((kind[quotes - 1] != OTHER) & (lead[quotes - 1] != ord(" ")))]
    padded = np.append(lead, [0, 0, 0])
    one, two = padded[quotes + 1], padded[quotes + 2]
    short = np.isin(one, [*b"stmd"]) & ~new_text[quotes + 1]
    long = ((one == ord("l")) & (two == ord("l"))) | (np.isin(one, [*b"rv"]) & (two == ord("e")))
    long &= ~new_text[quotes + 1] & ~new_text[quotes + 2]
    begins[quotes[short | long] + 1] = False
    ends = np.concatenate([quotes[short] + 2, quotes[long] + 3])
    begins[ends[ends < count]] = True
    return begins


class WordEncoder:
    """Encodes texts without special tokens; the name of one in a text is ordinary text. See `word_encoder`.

    Threads may share one: most of the work does not hold Python's global lock.
    """

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._known: dict[bytes, list[int]] = {}

    def __call__(self, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all `texts` (no nulls) `[tokens]`, and the number of tokens of each `[texts]`."""
        parts = [self._encode(part) for part in slices(texts)]
        if not parts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        ids, counts = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(counts)

    def _encode(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        words, first = split_words(texts)
        coded = words.dictionary_encode()
        of_word = self._look_up(coded.dictionary.to_pylist())
        counts = np.fromiter(map(len, of_word), dtype=np.int64, count=len(of_word))
        ids = np.fromiter(chain.from_iterable(of_word), dtype=np.int32, count=int(counts.sum()))
        word = coded.indices.to_numpy()
        ends = np.append(0, np.cumsum(counts[word]))
        per_text = np.diff(ends[first])
        if len(ids) == len(counts):  # one token per word
            return ids[word], per_text
        begin = np.cumsum(counts) - counts
        return ids[np.repeat(begin[word] - ends[:-1], counts[word]) + np.arange(ends[-1])], per_text

    def _look_up(self, words: list[bytes]) -> list[list[int]]:
        if len(self._known) > MAX_WORDS:
            self._known = {}  # another thread may still read the old one
        known = self._known
        if new := [word for word in words if word not in known]:
            encoded = self._backend.encode_batch_fast([word.decode() for word in new], add_special_tokens=False)
            known.update(zip(new, (encoding.ids for encoding in encoded), strict=True))
        return [known[word] for word in words]


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[pa.ChunkedArray], tuple[np.ndarray, np.ndarray]]:
    """Like a `WordEncoder`, for any tokenizer. Threads take turns: a call sets options of the tokenizer."""
    lock = threading.Lock()

    def encode(texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        with lock:
            ids = tokenizer(
                texts.to_pylist(),
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
        counts = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(counts.sum())), counts

    return encode


def word_encoder(tokenizer: PreTrainedTokenizerBase) -> WordEncoder | None:
    """An encoder that gives the ids of `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`.

    None if texts cannot be encoded word by word: for a pre-tokenizer other than GPT-2's, a normalizer, added tokens
    that are not special, dropout, or a class that overrides the encoding.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:
        return None
    spec = json.loads(backend.to_str())
    how, model = spec["pre_tokenizer"] or {}, spec["model"]
    if (
        spec["normalizer"] is not None
        or (how.get("type"), how.get("add_prefix_space"), how.get("use_regex")) != ("ByteLevel", False, True)
        or model["type"] != "BPE"
        or model.get("dropout")
        or not all(token["special"] for token in spec["added_tokens"])
    ):
        return None
    own = type(backend).from_str(backend.to_str())  # a copy, since calls may set padding and truncation
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = True
    encoder = WordEncoder(own)
    texts = pa.chunked_array([_TEST_TEXTS])
    return encoder if all(map(np.array_equal, encoder(texts), text_encoder(tokenizer)(texts))) else None
