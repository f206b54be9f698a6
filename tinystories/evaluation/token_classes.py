"""Word classes of story text: articles, other function words and the rest, for words and for tokens.

Function words are closed classes (R. Quirk et al., A Comprehensive Grammar of the English Language, 1985, chapter 2),
so a list of them can be complete. A model trained to predict the wrong token omits them first, which the mean loss
over all tokens does not show.
"""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import token_pieces

from .articles import ARTICLES


WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

OTHER_FUNCTION_WORDS = frozenset(
    """
    this that these those some any no every each either neither both all half such much many more most few fewer less
    least several enough another other
    i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself yourself
    himself herself itself ourselves yourselves themselves who whom whose which what whoever whatever someone somebody
    something anyone anybody anything everyone everybody everything nobody nothing none one
    about above across after against along among around as at before behind below beneath beside besides between beyond
    but by despite down during except for from in inside into like near of off on onto out outside over past round
    since than through throughout till to toward towards under underneath until up upon with within without
    and or nor so yet because although though if unless while when whenever where wherever whether once
    be am is are was were been being do does did done doing have has had having can could will would shall should may
    might must ought
    not there here then how why too also just
    i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've we'll
    we'd they're they've they'll they'd that's there's here's what's who's where's how's let's isn't aren't wasn't
    weren't don't doesn't didn't haven't hasn't hadn't can't couldn't won't wouldn't shan't shouldn't mustn't cannot
    """.split()
)

CLASSES = ("other_words", "articles", "function_words")
OTHER, ARTICLE, FUNCTION_WORD = range(3)


def word_class(word: str) -> int:
    """`ARTICLE`, `FUNCTION_WORD` or `OTHER`, whatever the case and the form of the apostrophe."""
    word = word.lower().replace("’", "'")
    if word in ARTICLES:
        return ARTICLE
    return FUNCTION_WORD if word in OTHER_FUNCTION_WORDS else OTHER


class TokenClassifier:
    """Gives each token the class of the word that it belongs to.

    A token is an article only if it is the whole word: " a" before "pple" is not. All tokens of an article or
    function word count; punctuation and special tokens are `OTHER`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._pieces = token_pieces(tokenizer)

    def __call__(self, token_ids: Sequence[int]) -> np.ndarray:
        """Classes `[length]` (uint8) of the tokens `[length]` of a text, or of a row of texts."""
        pieces = [self._pieces[index] for index in token_ids]
        ends = np.cumsum([len(piece) for piece in pieces])
        classes = np.zeros(len(pieces), dtype=np.uint8)
        for word in WORD.finditer("".join(pieces)):
            if found := word_class(word[0]):
                first, last = np.searchsorted(ends, (word.start(), word.end() - 1), side="right")
                classes[first : last + 1] = found
        return classes
