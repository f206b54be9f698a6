"""Whether the stories as a whole are written English: damage that every story has, and so no single one shows.

A corpus that lost its articles, its capitals or its full stops looks clean story by story, and a model trained on it
writes as it does. So these checks compare rates over many stories with those of real ones.

Design decisions:

- "Usual" is what 16,054 training and 3,613 validation stories of TinyStories have (measured on roneneldan/TinyStories,
  V1 and V2). Bounds lie at least a factor of three outside of it, so that other English stories pass, too.
- English is required where a rate is one of English. The language is decided by common words other than articles, most
  of them content words, so that a text stays English when its articles or all its function words are deleted, and so
  that another language is reported as such and not accused of lacking articles.
- Each finding names the rate, the usual rate, an example and what to do. Too little text is inconclusive.
"""

import re
import unicodedata
from collections import Counter

from ..data.cleaning import excerpt
from ..evaluation.articles import count_articles
from ..evaluation.text_statistics import words
from .findings import Finding


# Common in children's stories, hardly any of them a common word of another European language. Articles are left out:
# they are what is measured. 32 % of the words of TinyStories, 38 % after all function words are deleted.
ENGLISH = frozenset(
    """
    and to they it she her said with his day you big but that of not very happy saw little play there were wanted
    friends went together be fun their them him help girl boy played time named would could when what about from have
    this asked like looked house found friend good took around made things lived day new took know felt away water
    mommy daddy mother father children looking playing started laughed smiled thought decided loved liked because their
    again back home down other every never always first tree bird ball park garden food eat toys
    """.split()
)
LEAST_ENGLISH = 0.12  # of the words; passages of seven other languages had at most 0.05
LEAST_WORDS = 300
LEAST_EXPECTED = 40  # occurrences that a word would usually have, before its absence means anything

ARTICLES = frozenset({"a", "an", "the"})
USUAL_ARTICLES, FEW_ARTICLES = 9.5, 4.0  # per 100 words; news and fiction of other kinds have 5 to 10
USUAL_OMISSION, MANY_OMISSIONS, MOST_OMISSIONS = 0.013, 0.06, 0.15  # fraction of countable singular nouns
LEAST_NOUNS = 200
# Per 100 words of TinyStories; words of any tense, person and subject.
FUNCTION_WORDS = {"and": 4.6, "to": 3.4, "it": 1.5, "with": 0.95, "in": 0.92, "but": 0.69, "of": 0.6, "on": 0.6}
FUNCTION_WORDS |= {"that": 0.63, "for": 0.51}
RARE = 1 / 20  # of its usual rate, below which a function word counts as deleted

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_MARKS = re.compile(r"[.!?,;:]")
_ENDS = re.compile(r"[.!?…。！？]+")
_NO_SPACE = re.compile(r"[^\W\d_]{2}[.!?,;:][^\W\d_]{2}")
_SPACE_BEFORE = re.compile(r"[^\W\d_] [.!?,;:](?![.)(DP])")
_START = re.compile(r"(?:\A|(?<=[a-z][.!?])\s+)[\"“'‘]?([^\W\d_])[^\W\d_]*")
_REPEATED = re.compile(r"\b([^\W\d_]+)(?:\s+\1\b)+", re.IGNORECASE)
_LOST_APOSTROPHE = re.compile(
    r"\b(?:(?:did|do|does|could|was|is|would|were|are|have|has|should)nt|cant|wont|im|ive|youre|theyre|thats|whats|lets"
    r"|(?:didn|don|doesn|couldn|wasn|isn|wouldn) t)\b",
    re.IGNORECASE,
)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")
_BAD_END = re.compile(r"\b(?:the|a|an|and|of|my|your|every)[.!?]", re.IGNORECASE)
# Said twice on purpose: "had had", "very very", "ha ha", "no no", "tap tap".
MEANT_TWICE = frozenset(
    "had that very really so no ha he hee ho bye far up down round again on over tap knock".split()
)
_SENTENCE = re.compile(r"[^.!?…]+")
# Marks that usual text has; other marks and symbols are odd where many stories hold them.
_USUAL_MARKS = set("\"'.,!?;:()-–—‘’“”„‚…«»¿¡。、，！？：；「」『』·&/%")
# Letters and a block with which tokenizers spell a space and a line break.
_TOKEN_MARKS = {"Ġ": "byte-level BPE", "Ċ": "byte-level BPE", "▁": "SentencePiece"}
_FEW, _MANY = 0.05, 0.2  # fractions of stories

READ_AGAIN = "Read the source again, or use a copy that was not preprocessed."


class _Sample:
    """Stories and what several checks count in them."""

    def __init__(self, stories: list[str], which: str):
        self.stories, self.which = stories, which
        self.words = [word for story in stories for word in words(story)]
        self.counts = Counter(self.words)

    def per_100_words(self, count: float) -> float:
        return 100 * count / max(1, len(self.words))

    def matches(self, pattern: re.Pattern) -> int:
        return sum(1 for story in self.stories for _ in pattern.finditer(story))

    def example(self, pattern: re.Pattern) -> str:
        """The text around the first match, or the beginning of the first story."""
        for story in self.stories:
            if match := pattern.search(story):
                return f'such as "{excerpt(story, *match.span())}"'
        return self.beginning()

    def beginning(self) -> str:
        return f'such as "{excerpt(self.stories[0], 0, 0, around=60)}"'


def check_writing(stories: list[str], which: str = "training") -> list[Finding]:
    """Findings on the text as a whole.

    Args:
        stories: a sample.
        which: part of the corpus it is from, for messages.
    """
    sample = _Sample([story for story in stories if story.strip()], f"{len(stories):,} {which} stories")
    findings = [*_check_symbols(sample), *_check_spacing(sample)]
    if len(sample.words) < LEAST_WORDS:
        if any(finding.status == "error" for finding in findings):
            return findings
        reason = f"{len(sample.words):,} words in {sample.which} are too few to judge the text as a whole"
        return [Finding("text: language", "inconclusive", reason), *findings]
    language = _check_language(sample)
    checks = [_check_capitals, _check_sentence_ends, _check_doubled_words, _check_repeated_sentences]
    if language.status == "ok":
        checks += [_check_articles, _check_function_words, _check_word_order, _check_apostrophes]
    return [language, *findings, *(finding for check in checks for finding in check(sample))]


# Any language


def _check_language(sample: _Sample) -> Finding:
    check = "text: language"
    share = sum(sample.counts[word] for word in ENGLISH) / len(sample.words)
    seen = f"{share:.1%} of the words in {sample.which} are among {len(ENGLISH)} common English ones (usual: 32%)"
    if share >= LEAST_ENGLISH:
        return Finding(check, "ok", seen)
    return Finding(
        check,
        "inconclusive",
        f"{seen}, {sample.beginning()}: this is not English prose, so its articles and grammar are not judged",
        "Nothing, where another language is meant. The minimal pairs and article statistics are for English.",
    )


def _check_symbols(sample: _Sample) -> list[Finding]:
    """Marks that no usual text has in many stories: markup, escapes, pieces of a tokenizer."""
    check = "text: symbols"
    stories: Counter[str] = Counter()
    for story in sample.stories:
        stories.update(set(filter(_is_odd, story)))
    worst, count = max(stories.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    share = count / max(1, len(sample.stories))
    if share <= _FEW or count < 2:
        return [Finding(check, "ok", f"no unusual mark is in more than {_FEW:.0%} of {sample.which}")]
    name = unicodedata.name(worst, f"U+{ord(worst):04X}").lower()
    source = f", which {_TOKEN_MARKS[worst]} tokenizers write for spaces" if worst in _TOKEN_MARKS else ""
    return [
        Finding(
            check,
            "error" if share > _MANY else "note",
            f"{count:,} of {sample.which} ({share:.0%}) hold {worst!r} ({name}{source}), "
            f"{sample.example(re.compile(re.escape(worst)))} (usual: under 0.1%)",
            "The text is escaped, marked up or tokenized: decode it to plain text.",
        )
    ]


def _is_odd(character: str) -> bool:
    if character.isalnum() or character.isspace() or character in _USUAL_MARKS:
        return character in _TOKEN_MARKS
    # Currency signs and emoji are meant; combining marks belong to letters.
    kind = unicodedata.category(character)
    return not (kind in ("Sc", "Mn", "Mc", "Cf") or (kind == "So" and character not in _TOKEN_MARKS))


def _check_spacing(sample: _Sample) -> list[Finding]:
    """Spaces that are missing between words or after marks, and spaces that stand where none belong."""
    check = "text: spacing"
    pieces = [piece for story in sample.stories for piece in story.split()]
    letters = "".join(sample.stories[:200])
    if not pieces or sum(character.isascii() for character in letters) < 0.5 * len(letters):
        return []  # scripts without spaces, or with other words
    marks = sample.matches(_MARKS)
    length = sum(map(len, pieces)) / len(pieces)
    missing, before = sample.matches(_NO_SPACE), sample.matches(_SPACE_BEFORE)
    if length > 12 and len(pieces) >= 20:
        seen = f"{length:.1f} characters between two spaces in {sample.which} (usual: 5), {sample.beginning()}"
        return [Finding(check, "error", f"{seen}: the spaces between words are missing", READ_AGAIN)]
    if length < 2 and len(pieces) >= 20:
        seen = f"{length:.1f} characters between two spaces in {sample.which} (usual: 5), {sample.beginning()}"
        return [Finding(check, "error", f"{seen}: words are split into letters", READ_AGAIN)]
    findings = []
    for count, what, pattern, advice in (
        (missing, "are not followed by a space", _NO_SPACE, "Put a space after each mark, or read the source again."),
        (before, "follow a space", _SPACE_BEFORE, "The text is tokenized: detokenize it, or read the source again."),
    ):
        share = count / max(1, marks)
        if count >= 3 and share > 0.005:
            seen = f"{count:,} of {marks:,} punctuation marks ({share:.1%}; usual: under 0.01%) {what}"
            status = "error" if share > 0.03 else "note"
            findings.append(Finding(check, status, f"{seen}, {sample.example(pattern)} ({sample.which})", advice))
    return findings or [
        Finding(check, "ok", f"{length:.1f} characters per word; marks are followed and not preceded by a space")
    ]


def _check_capitals(sample: _Sample) -> list[Finding]:
    check = "text: capitals"
    cased = upper = 0
    for story in sample.stories:
        upper += sum(map(str.isupper, story))
        cased += sum(map(str.islower, story))
    cased += upper
    if cased < 1_000:
        return []
    share = upper / cased
    found = [word for story in sample.stories for word in _WORD.findall(story) if len(word) > 2]
    titled = sum(word[0].isupper() for word in found) / max(1, len(found))
    starts = [match[1] for story in sample.stories for match in _START.finditer(story)]
    small = sum(map(str.islower, starts)) / max(1, len(starts))
    seen = (
        f"{share:.1%} of the letters in {sample.which} are capitals (usual: 4%), {small:.0%} of the sentences begin "
        f"with a small letter (usual: 1%)"
    )
    if share > 0.4:
        what, status = "the text is in capitals", "error"
    elif share < 0.003:
        what, status = "the text is in lower case", "error"
    elif titled > 0.7:
        what, status = f"{titled:.0%} of the words begin with a capital (usual: 15%)", "error"
    elif len(starts) >= 50 and small > 0.4:
        what, status = "sentences begin without a capital", "error"
    elif len(starts) >= 50 and small > 0.15:
        what, status = "many sentences begin without a capital", "note"
    else:
        return [Finding(check, "ok", seen)]
    advice = "Use a copy with the original case: a model trained on this one writes as it does."
    return [Finding(check, status, f"{seen}, {sample.beginning()}: {what}", advice)]


def _check_sentence_ends(sample: _Sample) -> list[Finding]:
    check = "text: punctuation"
    ends = sample.per_100_words(sample.matches(_ENDS))
    commas = sample.per_100_words(sum(story.count(",") + story.count("，") for story in sample.stories))
    seen = f"{ends:.1f} ends of sentences and {commas:.1f} commas per 100 words in {sample.which} (usual: 11 and 5)"
    if ends < 2:
        advice = "Use a copy with punctuation: without it a model learns no sentences."
        return [Finding(check, "error", f"{seen}, {sample.beginning()}: ends of sentences are missing", advice)]
    if commas < 0.1 and len(sample.words) > 2_000:
        advice = "Use a copy with the original punctuation, unless the stories are meant to have none."
        return [Finding(check, "note", f"{seen}, {sample.beginning()}: there are no commas", advice)]
    return [Finding(check, "ok", seen)]


def _check_doubled_words(sample: _Sample) -> list[Finding]:
    check = "text: doubled words"
    count, place = 0, ""
    for story in sample.stories:
        for match in _REPEATED.finditer(story):
            # Names of sounds are said three times and more.
            if match[1].lower() not in MEANT_TWICE and len(match[0].split()) == 2:
                count += 1
                place = place or f'such as "{excerpt(story, *match.span())}"'
    rate = sample.per_100_words(count)
    seen = f"{rate:.2f} per 100 words in {sample.which} (usual: 0.005)"
    if rate <= 0.1 or count < 3:
        return [Finding(check, "ok", seen)]
    status = "error" if rate > 0.5 else "note"
    return [Finding(check, status, f"{seen}, {place}", f"Words were written twice. {READ_AGAIN}")]


def _check_repeated_sentences(sample: _Sample) -> list[Finding]:
    check = "text: repeated sentences"
    total = again = 0
    place = ""
    for story in sample.stories:
        seen_here: set[str] = set()
        for match in _SENTENCE.finditer(story):
            sentence = match[0].strip(" \n\"“”'‘’").lower()
            if len(sentence.split()) < 4:
                continue
            total += 1
            if sentence in seen_here:
                again += 1
                place = place or f'such as "{excerpt(story, *match.span(), around=10)}"'
            seen_here.add(sentence)
    share = again / max(1, total)
    seen = f"{share:.1%} of {total:,} sentences in {sample.which} repeat one of the same story (usual: 0.2%)"
    if share <= 0.03 or again < 5:
        return [Finding(check, "ok", seen)]
    advice = "Remove the repetition: a model learns to repeat itself from it."
    return [Finding(check, "error" if share > 0.15 else "note", f"{seen}, {place}", advice)]


# English


def _check_articles(sample: _Sample) -> list[Finding]:
    check = "text: articles"
    rate = sample.per_100_words(sum(sample.counts[word] for word in ARTICLES))
    counts = [count_articles(story) for story in sample.stories]
    nouns, bare = sum(each.nouns for each in counts), sum(each.omissions for each in counts)
    omission = bare / max(1, nouns)
    seen = f"{rate:.1f} per 100 words in {sample.which} (TinyStories: {USUAL_ARTICLES})"
    if nouns >= LEAST_NOUNS:
        seen += f"; {omission:.1%} of {nouns:,} countable nouns lack a determiner (TinyStories: {USUAL_OMISSION:.1%})"
    many = nouns >= LEAST_NOUNS and omission > MANY_OMISSIONS
    if rate >= FEW_ARTICLES and not many:
        return [Finding(check, "ok", seen)]
    most = rate < FEW_ARTICLES / 2 or (nouns >= LEAST_NOUNS and omission > MOST_OMISSIONS)
    place = next(
        (
            f'such as "{excerpt(story, 0, 0, around=80)}"'
            for story, each in zip(sample.stories, counts, strict=True)
            if each.omissions > 1
        ),
        sample.beginning(),
    )
    return [
        Finding(
            check,
            "error" if most else "note",
            f"{seen}, {place}: articles are missing",
            'Use a copy in which "a", "an" and "the" were not removed, as stop-word filters do: a model trained on '
            "this one leaves them out.",
        )
    ]


def _check_function_words(sample: _Sample) -> list[Finding]:
    check = "text: function words"
    expected = {word: rate * len(sample.words) / 100 for word, rate in FUNCTION_WORDS.items()}
    judged = {word: count for word, count in expected.items() if count >= LEAST_EXPECTED}
    if not judged:
        return []
    rare = [word for word, count in judged.items() if sample.counts[word] < RARE * count]
    if not rare:
        return [Finding(check, "ok", f"{', '.join(judged)} are about as frequent in {sample.which} as usual")]
    listed = ", ".join(f'"{word}" {sample.counts[word]:,} times (usual: {judged[word]:,.0f})' for word in rare)
    return [
        Finding(
            check,
            "error",
            f"{listed} in {sample.which}, {sample.beginning()}",
            "Use a copy from which no words were removed, as stop-word filters do.",
        )
    ]


def _check_word_order(sample: _Sample) -> list[Finding]:
    check = "text: word order"
    ends = sample.matches(_ENDS)
    if ends < 100:
        return []
    wrong = sample.matches(_BAD_END)
    share = wrong / ends
    seen = f'{share:.1%} of {ends:,} sentences in {sample.which} end in "the", "and" and the like (usual: under 0.1%)'
    if share <= 0.01:
        return [Finding(check, "ok", seen)]
    advice = f"Words are missing or in the wrong order. {READ_AGAIN}"
    return [Finding(check, "error" if share > 0.04 else "note", f"{seen}, {sample.example(_BAD_END)}", advice)]


def _check_apostrophes(sample: _Sample) -> list[Finding]:
    check = "text: apostrophes"
    lost, kept = sample.matches(_LOST_APOSTROPHE), sample.matches(_APOSTROPHE)
    seen = f"{lost:,} contractions without an apostrophe and {kept:,} apostrophes within words in {sample.which}"
    if lost < 5 or lost < 0.1 * kept:
        return [Finding(check, "ok", seen)]
    advice = "Use a copy with the original punctuation."
    return [Finding(check, "error" if lost > kept else "note", f"{seen}, {sample.example(_LOST_APOSTROPHE)}", advice)]
