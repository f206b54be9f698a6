"""Train a byte-level BPE tokenizer, or prune an existing one to the tokens that a corpus uses most.

from tinystories.tokenization import tokenizer_report, train_bpe

tokenizer = train_bpe(["Once upon a time there was a cat.", ...])
tokenizer.save_pretrained("my-tokenizer")  # AutoTokenizer.from_pretrained("my-tokenizer") loads it
"""

from .bpe import (
    BOS,
    EOS,
    PAD,
    UNK,
    PreTrainedTokenizerFast,
    build_tokenizer,
    tokenizer_report,
    train_bpe,
    vocabulary_size,
)
from .errors import TokenizerError
from .pieces import token_pieces
from .prune import prune_to_top_k


__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "PreTrainedTokenizerFast",
    "TokenizerError",
    "build_tokenizer",
    "prune_to_top_k",
    "token_pieces",
    "tokenizer_report",
    "train_bpe",
    "vocabulary_size",
]
