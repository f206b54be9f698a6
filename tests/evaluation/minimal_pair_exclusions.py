"""Sentences that the rules exclude, because the changed one could be English or the good one is doubtful."""

from typing import NamedTuple


class Exclusion(NamedTuple):
    """No pair is made from `left_out`, for this `reason`; one is made from `taken`, which differs only in that."""

    reason: str
    left_out: str
    taken: str


EVERY_KIND = "every kind"
EXCLUSIONS: dict[str, tuple[Exclusion, ...]] = {
    EVERY_KIND: (
        Exclusion(
            "speech: it has fragments, and its beginning may lack a quotation mark",
            'Tim said, "I saw the dog." Then he left.',
            "Tim said he saw the dog. Then he left.",
        ),
        Exclusion("what is said about speech", '"Hello!" Tim said to the dog.', '"Hello!" Tim ran to the dog.'),
        Exclusion("titles", "Then the dog met Mr. Brown.", "Then the dog met Brown."),
        Exclusion(
            "figures and marks other than commas", "He saw the dog at 5 today.", "He saw the dog at five today."
        ),
        Exclusion("words in capitals", "Then the dog was VERY happy.", "Then the dog was very happy."),
        Exclusion("fewer than four words or more than 25", "Then the dog.", "Then the dog ran."),
    ),
    "article_deleted": (
        Exclusion(
            "nouns that can do without an article: substances, dishes, plurals, titles, school, town, day",
            "She looked at the honey.",
            "She looked at the table.",
        ),
        Exclusion(
            "the first word, as in a headline or a fable", "The fox ran home quickly.", "Then the fox ran home."
        ),
        Exclusion("words joined by and, or, commas", "She saw a cat and a dog.", "She saw a cat with her dog."),
        Exclusion("behind such, half, what, of, as, by, from", "She never saw such a bird.", "She never saw a bird."),
        Exclusion("behind a name", "He played with Max the dog.", "He played with the dog."),
        Exclusion(
            "to, help, let, go + a noun that is also a verb", "They went to the park.", "They were in the park."
        ),
        Exclusion("half of a longer noun", "She looked into the bird house.", "She looked into the house."),
    ),
    "article_swapped": (
        Exclusion("a sound unlike its letter", "She waited for an hour.", "She waited for an answer."),
        Exclusion("h and u that are heard both ways", "They stayed in a hotel.", "They stayed in a house."),
        Exclusion("names", "They stayed with a Dalmatian.", "They stayed with a dog."),
    ),
    "article_doubled": (
        Exclusion("the first word, so that good and bad begin alike", "The dog ran home.", "Then the dog ran home."),
    ),
    "article_moved": (
        Exclusion("behind so, too, how, such, quite", "He was such a big dog.", "He was still a big dog."),
        Exclusion(
            "the + adjective behind make, paint, keep, be: it could be a result",
            "She painted the red door and wall.",
            "She passed the red door and wall.",
        ),
        Exclusion("as in article_deleted, behind the noun", "He was with Max the dog.", "He was with the dog."),
        Exclusion(
            "a second noun behind: the article could be its own", "She gave the dog toys.", "She gave the dog up."
        ),
    ),
    "subject_verb_agreement": (
        Exclusion(
            "sentences with if, wish, like, as, though, pretend, ask: a subjunctive",
            "She wished that he was there.",
            "She knew that he was there.",
        ),
        Exclusion("collectives", "His family was very happy.", "His friend was very happy."),
        Exclusion("one form for both numbers", "The sheep was very happy.", "The cat was very happy."),
        Exclusion(
            "verbs with one form for both, such as past forms", "They walked home again.", "They walk home again."
        ),
        Exclusion("a subject of several parts", "The boy with the dog was happy.", "The boy was happy with it."),
    ),
    "tense": (
        Exclusion(
            "past instead of present and the like: a story may use both",
            "They played in the garden.",
            "She played in the garden.",
        ),
        Exclusion("a past that is a verb of its own", "They ran off to see it.", "They ran off to take it."),
        Exclusion("one form for present and past", "They had to put it away.", "They had to throw it away."),
        Exclusion("participles with two forms", "They had forgotten it again.", "They had broken it again."),
        Exclusion("it or a noun before be + -ing", "It was growing very fast.", "Tom was growing very fast."),
        Exclusion("had + what would be a noun", "They had noticed that before.", "They had learned that before."),
    ),
    "word_order": (
        Exclusion(
            "to + a verb that is a noun too: wanted help to", "She wanted to help him.", "She wanted to see him."
        ),
        Exclusion(
            "to behind go, come, help: a bare verb may follow", "She had come to see it.", "She had hoped to see it."
        ),
        Exclusion("moods: saw a boy sad", "He saw a sad boy.", "He saw a little boy."),
        Exclusion("where the article would have to change", "He saw an old tree.", "He saw a tall tree."),
        Exclusion("prepositions that can follow an article", "He ran inside the house.", "He ran into the house."),
        Exclusion('"her", which may be an object', "She called her mom.", "He called his mom again."),
        Exclusion(
            "an adjective that what follows could belong to", "He saw a big tree as well.", "He saw a big tree too."
        ),
    ),
}
