"""Check whether the stories as a whole are normal written English.

- If a preprocessing step removed all articles, capitals or full stops, each single story still looks clean, but a
  model trained on them omits them, too. So these checks compare rates over many stories with those of real ones.
- "Usual" values are those of 16,054 training and 3,613 validation stories of TinyStories (measured on
  roneneldan/TinyStories, V1 and V2). Bounds are at least a factor of three away, so that other English stories pass.
- The language is detected by common words other than articles, so that a text without its articles, or without all its
  function words, still counts as English. Texts in other languages, which may have no articles, get no finding.
"""

import re
import unicodedata
from collections import Counter

from ..data.cleaning import excerpt
from ..evaluation.articles import ARTICLES, count_articles
from ..evaluation.text_statistics import words
from .findings import Finding, as_check, error, inconclusive, note, ok


# Common in children's stories, hardly any of them a common word of another European language. Articles are left out:
# they are what is measured. 32% of the words of TinyStories, 38% after all function words are deleted.
ENGLISH = frozenset(
    """
    and to they it she her said with his day you big but that of not very happy saw little play there were wanted
    friends went together be fun their them him help girl boy played time named would could when what about from have
    this asked like looked house found friend good took around made things lived day new took know felt away water
    mommy daddy mother father children looking playing started laughed smiled thought decided loved liked because their
    again back home down other every never always first tree bird ball park garden food eat toys
    """.split()
)
LEAST_ENGLISH = 0.12  # fraction of the words; at most 0.05 in passages of seven other languages
LEAST_WORDS, LEAST_LETTERS, LEAST_SENTENCES = 300, 1_000, 100  # with fewer, rates are not significant
LEAST_EXPECTED = 40  # a word that is usually rarer in so much text is not checked

USUAL_ARTICLES, FEW_ARTICLES = 9.5, 4.0  # per 100 words; news and fiction of other kinds have 5 to 10
USUAL_OMISSION, MANY_OMISSIONS, MOST_OMISSIONS = 0.013, 0.06, 0.15  # fraction of countable singular nouns
LEAST_NOUNS = 200
# Per 100 words of TinyStories; words of any tense, person and subject.
FUNCTION_WORDS = {"and": 4.6, "to": 3.4, "it": 1.5, "with": 0.95, "in": 0.92, "but": 0.69, "of": 0.6, "on": 0.6}
FUNCTION_WORDS |= {"that": 0.63, "for": 0.51}
RARE = 1 / 20  # of its usual rate, below which a function word counts as deleted

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_COMMA = re.compile(r"[,，]")
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
# Marks of ordinary text; other marks and symbols are suspicious if many stories contain them.
_USUAL_MARKS = set("\"'.,!?;:()-–—‘’“”„‚…«»¿¡。、，！？：；「」『』·&/%")
# Characters that tokenizers use for a space or a line break.
_TOKEN_MARKS = {"Ġ": "byte-level BPE", "Ċ": "byte-level BPE", "▁": "SentencePiece"}
READ_AGAIN = "Extract the text from its source again, or use a version that was not preprocessed."
ORIGINAL = "Use a version with the original punctuation."


class _Sample:
    """Stories and what several checks count in them."""

    def __init__(self, stories: list[str], name: str):
        self.stories, self.name = stories, name
        self.words = [word for story in stories for word in words(story)]
        self.counts = Counter(self.words)

    def per_100_words(self, count: float) -> float:
        return 100 * count / max(1, len(self.words))

    def count(self, pattern: re.Pattern) -> int:
        return sum(1 for story in self.stories for _ in pattern.finditer(story))

    def example(self, pattern: re.Pattern) -> str:
        """The text around the first match, or the beginning of the first story."""
        for story in self.stories:
            if match := pattern.search(story):
                return _example(story, *match.span())
        return self.beginning()

    def beginning(self) -> str:
        return _example(self.stories[0], 0, 0, around=60)


def _example(story: str, *span: int, **options: int) -> str:
    return f'such as "{excerpt(story, *span, **options)}"'


def check_writing(stories: list[str], split: str = "training") -> list[Finding]:
    """Findings on the text as a whole.

    Args:
        stories: a sample of a split.
        split: its name, for messages.
    """
    sample = _Sample([story for story in stories if story.strip()], f"{len(stories):,} {split} stories")
    findings = [*_check_symbols(sample), *_check_spacing(sample)]
    if len(sample.words) < LEAST_WORDS:
        if any(finding.status == "error" for finding in findings):
            return findings
        reason = f"{len(sample.words):,} words in {sample.name} are too few to judge the text as a whole"
        return [inconclusive(reason, check="text: language"), *findings]
    language = _check_language(sample)
    checks = [_check_capitals, _check_sentence_ends, _check_doubled_words, _check_repeated_sentences]
    if language[0].status == "ok":
        checks += [_check_articles, _check_function_words, _check_word_order, _check_apostrophes]
    return [*language, *findings, *(finding for check in checks for finding in check(sample))]


def _grade(rate: float, limits: tuple[float, float], evidence: str, example: str, advice: str) -> Finding:
    """ "ok" for a rate up to the first limit, a note up to the second, else an error."""
    if rate <= limits[0]:
        return ok(evidence)
    return (error if rate > limits[1] else note)(f"{evidence}, {example}", advice)


# Any language


@as_check("text: language")
def _check_language(sample: _Sample) -> Finding:
    fraction = sum(sample.counts[word] for word in ENGLISH) / len(sample.words)
    evidence = (
        f"{fraction:.1%} of the words in {sample.name} are among {len(ENGLISH)} common English ones (usual: 32%)"
    )
    if fraction >= LEAST_ENGLISH:
        return ok(evidence)
    return inconclusive(
        f"{evidence}, {sample.beginning()}: this is not English prose, so its articles and grammar are not checked",
        "No action if the text is meant to be in another language; minimal pairs and article statistics are for "
        "English only.",
    )


@as_check("text: symbols")
def _check_symbols(sample: _Sample) -> Finding:
    """Symbols that ordinary text does not have in many stories: from markup, escapes or a tokenizer."""
    few, many = 0.05, 0.2  # fractions of the stories
    stories: Counter[str] = Counter()
    for story in sample.stories:
        stories.update(set(filter(_is_odd, story)))
    mark, count = max(stories.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    fraction = count / max(1, len(sample.stories))
    if fraction <= few or count < 2:
        return ok(f"no unusual symbol occurs in more than {few:.0%} of {sample.name}")
    name = unicodedata.name(mark, f"U+{ord(mark):04X}").lower()
    source = f", which {_TOKEN_MARKS[mark]} tokenizers use for spaces" if mark in _TOKEN_MARKS else ""
    return (error if fraction > many else note)(
        f"{count:,} of {sample.name} ({fraction:.0%}) contain {mark!r} ({name}{source}), "
        f"{sample.example(re.compile(re.escape(mark)))} (usual: under 0.1%)",
        "The text is escaped or tokenized, or contains markup: convert it to plain text.",
    )


def _is_odd(character: str) -> bool:
    if character in _TOKEN_MARKS:
        return True
    if character.isalnum() or character.isspace() or character in _USUAL_MARKS:
        return False
    # Currency signs and emoji are intended; combining marks belong to letters.
    return unicodedata.category(character) not in ("Sc", "So", "Mn", "Mc", "Cf")


@as_check("text: spacing")
def _check_spacing(sample: _Sample) -> list[Finding]:
    """Missing spaces between words or after punctuation marks, and wrong spaces before them."""
    pieces = [piece for story in sample.stories for piece in story.split()]
    text = "".join(sample.stories[:200])
    if not pieces or sum(map(str.isascii, text)) < 0.5 * len(text):
        return []  # scripts without spaces, or with other words
    length = sum(map(len, pieces)) / len(pieces)
    if len(pieces) >= 20 and not 2 <= length <= 12:
        cause = "words are split into letters" if length < 2 else "the spaces between words are missing"
        evidence = f"{length:.1f} characters between two spaces in {sample.name} (usual: 5), {sample.beginning()}"
        return [error(f"{evidence}: {cause}", READ_AGAIN)]
    marks = sample.count(_MARKS)
    findings = []
    for pattern, what, advice in (
        (
            _NO_SPACE,
            "are not followed by a space",
            "Add a space after each punctuation mark, or extract the text from its source again.",
        ),
        (
            _SPACE_BEFORE,
            "follow a space",
            "The text is tokenized: detokenize it, or extract the text from its source again.",
        ),
    ):
        count = sample.count(pattern)
        rate = count / max(1, marks) if count >= 3 else 0.0
        evidence = f"{count:,} of {marks:,} punctuation marks ({rate:.1%}; usual: under 0.01%) {what} in {sample.name}"
        findings.append(_grade(rate, (0.005, 0.03), evidence, sample.example(pattern), advice))
    usual = ok(f"{length:.1f} characters per word; punctuation marks are followed, and not preceded, by a space")
    return [finding for finding in findings if finding.status != "ok"] or [usual]


@as_check("text: capitals")
def _check_capitals(sample: _Sample) -> Finding | list[Finding]:
    upper = sum(sum(map(str.isupper, story)) for story in sample.stories)
    letters = upper + sum(sum(map(str.islower, story)) for story in sample.stories)
    if letters < LEAST_LETTERS:
        return []
    long_words = [word for story in sample.stories for word in _WORD.findall(story) if len(word) > 2]
    starts = [match[1] for story in sample.stories for match in _START.finditer(story)]
    capitals = upper / letters
    titled = sum(word[0].isupper() for word in long_words) / max(1, len(long_words))
    small = sum(map(str.islower, starts)) / max(1, len(starts))
    evidence = (
        f"{capitals:.1%} of the letters in {sample.name} are capitals (usual: 4%), {small:.0%} of the sentences "
        f"begin with a lower-case letter (usual: 1%)"
    )
    enough = len(starts) >= 50
    problems = {
        "the text is in upper case": capitals > 0.4,
        "the text is in lower case": capitals < 0.003,
        f"{titled:.0%} of the words begin with a capital (usual: 15%)": titled > 0.7,
        "sentences begin without a capital": enough and small > 0.4,
        "many sentences begin without a capital": enough and small > 0.15,
    }
    problem = next((problem for problem, applies in problems.items() if applies), None)
    if problem is None:
        return ok(evidence)
    advice = "Use a version with the original case: a model trained on this text will write in the same case."
    return (note if problem.startswith("many") else error)(f"{evidence}, {sample.beginning()}: {problem}", advice)


@as_check("text: punctuation")
def _check_sentence_ends(sample: _Sample) -> Finding:
    ends, commas = (sample.per_100_words(sample.count(pattern)) for pattern in (_ENDS, _COMMA))
    evidence = f"{ends:.1f} sentence ends and {commas:.1f} commas per 100 words in {sample.name} (usual: 11 and 5)"
    if ends < 2:
        advice = "Use a version with punctuation: without it, a model does not learn sentences."
        return error(f"{evidence}, {sample.beginning()}: sentence ends are missing", advice)
    if commas < 0.1 and len(sample.words) > 2_000:
        advice = "Use a version with the original punctuation, unless the stories are meant to have no commas."
        return note(f"{evidence}, {sample.beginning()}: there are no commas", advice)
    return ok(evidence)


@as_check("text: doubled words")
def _check_doubled_words(sample: _Sample) -> Finding:
    # Sounds ("tap tap tap") are repeated three times and more.
    examples = [
        (story, match.span())
        for story in sample.stories
        for match in _REPEATED.finditer(story)
        if match[1].lower() not in MEANT_TWICE and len(match[0].split()) == 2
    ]
    rate = sample.per_100_words(len(examples))
    evidence = f"{rate:.2f} doubled words per 100 words in {sample.name} (usual: 0.005)"
    if len(examples) < 3:
        return ok(evidence)
    story, span = examples[0]
    return _grade(rate, (0.1, 0.5), evidence, _example(story, *span), f"Words are duplicated. {READ_AGAIN}")


@as_check("text: repeated sentences")
def _check_repeated_sentences(sample: _Sample) -> Finding:
    total = 0
    examples = []
    for story in sample.stories:
        known: set[str] = set()
        for match in _SENTENCE.finditer(story):
            sentence = match[0].strip(" \n\"“”'‘’").lower()
            if len(sentence.split()) < 4:
                continue
            total += 1
            if sentence in known:
                examples.append((story, match.span()))
            known.add(sentence)
    fraction = len(examples) / max(1, total)
    evidence = (
        f"{fraction:.1%} of {total:,} sentences in {sample.name} repeat an earlier sentence of the same story "
        f"(usual: 0.2%)"
    )
    if len(examples) < 5:
        return ok(evidence)
    story, span = examples[0]
    advice = "Remove the repetition: a model trained on it learns to repeat itself."
    return _grade(fraction, (0.03, 0.15), evidence, _example(story, *span, around=10), advice)


# English


@as_check("text: articles")
def _check_articles(sample: _Sample) -> Finding:
    rate = sample.per_100_words(sum(sample.counts[word] for word in ARTICLES))
    counts = [count_articles(story) for story in sample.stories]
    nouns = sum(each.nouns for each in counts)
    omission = sum(each.omissions for each in counts) / max(1, nouns) if nouns >= LEAST_NOUNS else 0.0
    evidence = f"{rate:.1f} articles per 100 words in {sample.name} (TinyStories: {USUAL_ARTICLES})"
    if nouns >= LEAST_NOUNS:
        usual = f"(TinyStories: {USUAL_OMISSION:.1%})"
        evidence += f"; {omission:.1%} of {nouns:,} countable nouns lack a determiner {usual}"
    if rate >= FEW_ARTICLES and omission <= MANY_OMISSIONS:
        return ok(evidence)
    example = next(
        (
            _example(story, 0, 0, around=80)
            for story, each in zip(sample.stories, counts, strict=True)
            if each.omissions > 1
        ),
        sample.beginning(),
    )
    judge = error if rate < FEW_ARTICLES / 2 or omission > MOST_OMISSIONS else note
    return judge(
        f"{evidence}, {example}: articles are missing",
        'Use a version from which "a", "an" and "the" were not removed, for example by a stop-word filter: a model '
        "trained on this text omits them.",
    )


@as_check("text: function words")
def _check_function_words(sample: _Sample) -> Finding | list[Finding]:
    expected = {word: rate * len(sample.words) / 100 for word, rate in FUNCTION_WORDS.items()}
    expected = {word: count for word, count in expected.items() if count >= LEAST_EXPECTED}
    if not expected:
        return []
    rare = [word for word, count in expected.items() if sample.counts[word] < RARE * count]
    if not rare:
        return ok(f"usual frequencies in {sample.name}: {', '.join(expected)}")
    listed = ", ".join(f'"{word}" {sample.counts[word]:,} times (usual: {expected[word]:,.0f})' for word in rare)
    return error(
        f"{listed} in {sample.name}, {sample.beginning()}",
        "Use a version from which no words were removed, for example by a stop-word filter.",
    )


@as_check("text: word order")
def _check_word_order(sample: _Sample) -> Finding | list[Finding]:
    ends = sample.count(_ENDS)
    if ends < LEAST_SENTENCES:
        return []
    fraction = sample.count(_BAD_END) / ends
    evidence = (
        f'{fraction:.1%} of {ends:,} sentences in {sample.name} end with a word such as "the" or "and" (usual: under '
        f"0.1%)"
    )
    advice = f"Words are missing or in the wrong order. {READ_AGAIN}"
    return _grade(fraction, (0.01, 0.04), evidence, sample.example(_BAD_END), advice)


@as_check("text: apostrophes")
def _check_apostrophes(sample: _Sample) -> Finding:
    lost, kept = sample.count(_LOST_APOSTROPHE), sample.count(_APOSTROPHE)
    evidence = f"{lost:,} contractions without an apostrophe and {kept:,} apostrophes within words in {sample.name}"
    if lost < 5 or lost < 0.1 * kept:
        return ok(evidence)
    return (error if lost > kept else note)(f"{evidence}, {sample.example(_LOST_APOSTROPHE)}", ORIGINAL)
