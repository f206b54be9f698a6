"""The text of each token of a vocabulary."""

from transformers import PreTrainedTokenizerBase

from .bpe import vocabulary_size


def token_pieces(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token id, with its leading space; `"\\n"` for special tokens, which separate the words on their
    two sides, and `""` for an id without a token."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocabulary_size(tokenizer))))
    return ["\n" if index in special else _piece(tokenizer, index, token) for index, token in enumerate(tokens)]


def _piece(tokenizer: PreTrainedTokenizerBase, index: int, token: str | None) -> str:
    if token is None:  # no token has this id
        return ""
    # Decoded alone, a SentencePiece token loses its leading space.
    if token.startswith("▁"):
        return token.replace("▁", " ")
    return str(tokenizer.decode([index], clean_up_tokenization_spaces=False))
