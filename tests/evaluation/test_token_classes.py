"""Classes of words, and of the tokens that words are split into."""

from tinystories.evaluation.token_classes import ARTICLE, FUNCTION_WORD, OTHER, TokenClassifier, word_class
from tinystories.tokenization import train_bpe


def test_classes_of_words():
    assert [word_class(word) for word in ("The", "an", "and", "Didn’t", "dog")] == [
        ARTICLE, ARTICLE, FUNCTION_WORD, FUNCTION_WORD, OTHER,
    ]  # fmt: skip


def test_a_token_is_an_article_only_where_the_word_is_one():
    tokenizer = train_bpe(["the cat and a theme, an apple", "a the an"] * 30, 300, progress=False)
    text = "A cat saw the theme and an anthill.\nThe end: a"
    ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] + tokenizer("the")["input_ids"][1:]
    classes = TokenClassifier(tokenizer)(ids)
    pieces = [tokenizer.decode([index]).strip() for index in ids]
    of_class = {name: [piece for piece, k in zip(pieces, classes, strict=True) if k == name] for name in range(3)}
    assert "".join(of_class[ARTICLE]) == "AtheanTheathe" and "".join(of_class[FUNCTION_WORD]) == "and"
    assert "".join(of_class[OTHER]) == "<|endoftext|>catsawthemeanthill.end:<|endoftext|>"
