import json
import random
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from tinystories.data import cleaning as quality
from tinystories.data.cleaning import DROPPED, ERRORS, KINDS, check_quality, clean_stories, write_clean
from tinystories.data.corpus import Corpus, load_corpus, load_texts
from tinystories.data.synthetic import sample_stories
from tinystories.utils.errors import UserError


STORY = (
    "Once upon a time there was a little girl named Lily, and she had a red ball. {} She went to the park with her "
    "mom, and they played there all day. At the end of the day they were tired but happy."
)
PLAIN = STORY.format("It was her best toy.")
SPANISH = (
    "Había una vez una niña que se llamaba Ana. Vivía con su mamá en una casa cerca del bosque. Un día fue al jardín "
    "y vio un perro. El perro era pequeño y tenía hambre."
)
GERMAN = (
    "Es war einmal ein kleines Mädchen, das hieß Anna. Sie wohnte mit ihrer Mutter in einem Haus am Wald. Eines Tages "
    "ging sie in den Garten und sah einen Hund. Da war sie froh."
)
CHINESE = (
    "从前有一个小女孩，她叫安娜。她和妈妈住在森林旁边的房子里。有一天，她去花园，看见了一只小狗。小狗很小，也很饿。安娜给了它一块面包，"
    "它很高兴。从那天起，他们成了好朋友，每天都在阳光下一起玩耍。妈妈看着他们，笑了。晚上，大家都累了，但是很开心，很快就睡着了。"
)
ROUND = "The cat saw the dog and the dog saw the cat. "


def among(*fragments):
    return [STORY.format(fragment) for fragment in fragments]


def numbered(count, start=0):
    return [STORY.format(f"It was ball number {number}.") for number in range(start, start + count)]


# Each story has a problem of this kind and of no other.
HAS = {
    "empty": ["", "  \n\n ", "\u3000", None],
    "special_tokens": among(
        *("The end.<|endoftext|>It was red.", "It was <unk> red.", "<|padding|>", "<s>It was red.", "It was red.</s>"),
        *("<|im_start|>", "<|begin of text|>", "<｜end▁of▁sentence｜>", "[INST]", "<<SYS>>", "[PAD]", "<think>"),
    ),
    "control_characters": among("It was\x00 red.", "It\x07 was.", "A\x0cB was red.", "It was\x7f.", "\ue000", "\ufffc")
    + [STORY.format("It\ud83d was.")],
    "invisible_characters": ["\ufeff" + PLAIN]
    + among("It was re\u200bd.", "A base\xadball.", "It was \u202ered\u202c.", "re\u200dd", "\u2060It"),
    "mojibake": among(
        *(
            "It was in the cafÃ©.",
            "Itâ€™s red.",
            "â€œOh!â€\x9d she said.",
            "â€œOh!â€ she said.",
            "It was redâ€¦ and blue.",
        ),
        *("Itâ\x80\x99s red.", "It was red \x96 very red.", "ðŸ˜€", "Itâ€\x9c", "A â‚¬5 ball.", "Â£5.", "PiÃ±ata!"),
        *("ItÃ¢â‚¬â„¢s red.", "It was re\ufffd.", "VoilÃ !", "A dÄ…b.", "MÃœNCHEN", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚!", "A ball.Â She"),
    ),
    "html": among(
        "It was <b>red</b>.", "One.<br/>Two.", "</p>", '<a href="x">ball</a>', "<!-- red -->", "<SPAN class=x>", "<h2>"
    ),
    "html_entities": among("It was &quot;red&quot;.", "It was &lt;3.", "Tom&#39;s ball.", "&#x2019;", "A&nbsp;ball."),
    "very_short": ["Once upon a time, there was a cat.", PLAIN[:98] + "."],
    "very_long": ["\n".join(sample_stories(20, seed=0))],
    "instructions": [
        "Here is one possible story.\n" + PLAIN,
        "Sure! Here's a short story about a ball:\n" + PLAIN,
        "Certainly, this is your story:\n\n" + PLAIN,
        "Summary: A girl plays.\n" + PLAIN,
        PLAIN + "\n\nUser: Tell me more.",
        *among("As an AI language model, it was red.", "The story should use the word red.", "It was {color}."),
        *among("Her name was [insert name here].", "Dear {{user}}, it was red.", "Write 3-5 paragraphs."),
    ],
    "markdown": [
        "# The Red Ball\n\n" + PLAIN,
        *among("It was **red**.", "It was [red](red.html).", "~~~~\nred\n~~~~", "It was __red__."),
        PLAIN + "\n\n| a | b |\n|---|---|\n| c | d |.",
    ],
    "web_addresses": among("See https://a.b/c for it.", "See www.balls.net for it.", "It was from balls.com."),
    "email_addresses": among("Write to lily.b+1@mail.example.uk for it."),
    "backslashes": among("It\\'s red.", 'She said \\"Oh!\\"', "One.\\nTwo.", "It was red\\blue."),
    "unfinished": [PLAIN[:-1], *(PLAIN + end for end in (" Then she", " And,", " And then –", " In the 1"))],
    "not_english": [SPANISH, GERMAN, CHINESE, *among("Не was red.", "他很高興。", "ᴛʜᴇ ᴇɴᴅ.")],
    "repetitive": [(ROUND * 8).strip()],
    "begins_midway": ["o" + PLAIN[1:]],
    "odd_quotes": among('She said, "Oh!', "She said, “Oh!", "''Oh!'' she said.", 'She said, ""Oh!""'),
    "mixed_quotes": among('"Oh!" she said. “Oh!” he said.'),
    "asterisks": among("It was *very* red."),
    "missing_spaces": among("It was red.Then it was blue."),
    "spaces": [PLAIN + "\n", " " + PLAIN]
    + among("It  was.", "It\twas.", "It\xa0was.", "It \nwas.", "One.\r\nTwo.", "One.\n\n\nTwo.", "One.\u2028Two."),
}
# Correct text in which no problem may be found.
NEAR_MISSES = among(
    *(
        "AT&T made it.",
        "Tom & Lily; Ann & Ben.",
        "3 < 5 and 7 > 2.",
        "I <3 it.",
        "It cost $10, or 5€.",
        "It was 100% red.",
    ),
    *(
        "She was in a café.",
        "It was naïve.",
        "Zoë and Ångström.",
        "A jalapeño, a crêpe.",
        "Straße, Übung.",
        "½ of it.",
    ),
    *("It was red – very red.", "It was red—very red.", "It was...", "It was… red.", "It’s red.", "‘Oh,’ she said."),
    *(
        "“Oh,” she said.",
        "“In a café…”",
        "“At the café”—no.",
        "CAFÉ’s ball.",
        "“VOILÀ…”",
        "“Voilà…”",
        "„Groß“.",
        "25 °C.",
    ),
    *("LA CONCLUSÃO.", "IRMÃ’s ball.", "ÄÄ… BLÅ…", "« Oh ! »", "¿Qué?", "Úžasný.", "«É…»", "à la carte.", "Straß™."),
    *(
        "It was red 😀.",
        "👩\u200d🚀 and 👨\u200d👩\u200d👧.",
        "❤️.",
        "The * * * mark.",
        "5*3 is 15.",
        "She was #1.",
        "It was #red.",
    ),
    *(
        "They met @ the park.",
        "On the slide/swing.",
        "At 3 a.m. sharp.",
        "In the U.S.A. and so on.",
        "It was (very) red.",
    ),
    *(
        "It was [very] red.",
        "The moral of the story: Be kind.",
        "She said: it is red.",
        "A well-known red-brown ball.",
    ),
    *(
        "His words: be kind.",
        "They wrote a story.",
        "“Tell me a story about a cat!” she said.",
        "An AI-powered ball.",
        "-- Oh.",
    ),
    *(
        "It was http.",
        "The net. The com.",
        "She went home. Come!",
        "<-- there.",
        "a | b",
        "It was red_blue.",
        "Two {2} balls.",
    ),
)
NEAR_MISSES += [
    "Here is the ball.\n" + PLAIN,
    "Of course she had a ball. The story was told.\n" + PLAIN,
    "Narrator: " + PLAIN,
    PLAIN + "\n\nThe end",
    PLAIN + "\n\nTHE END",
    *(PLAIN[:-1] + end for end in ("!", "?", "…", "...", ".)", "! “Yes!”", '. "Yes!"', " 😀", "。", ".*")),
    STORY.format("¡Mira mi muñeca, es bonita y suave! That is Spanish."),
    PLAIN[:99] + ".",
    "\n\n".join(sample_stories(13, seed=0)),
    "\n".join(
        f"Then the {animal} sang, and the little girl went on." for animal in ("cat", "dog", "cow", "hen", "pig")
    ),
]


def kinds(*stories, **options):
    return {finding.kind for finding in check_quality(stories, progress=False, **options).findings}


def cleaned(*stories, **options):
    left, counts = clean_stories(stories, progress=False, **options)
    return left["text"][:], counts


def test_every_kind_has_examples():
    assert set(HAS) | {"duplicates", "near_duplicates"} == set(KINDS)
    assert not kinds(PLAIN)


def test_a_story_cut_off_before_speech():
    assert kinds(PLAIN + ' "No," she said. "Oh," he said, "') == {"unfinished", "odd_quotes"}
    assert kinds(PLAIN + " “No,” she said. Oh, he said, “") == {"unfinished", "odd_quotes"}


@pytest.mark.parametrize(("kind", "story"), [(kind, story) for kind in HAS for story in HAS[kind]])
def test_each_example_has_its_kind_and_no_other(kind, story):
    assert kinds(story) == {kind}


@pytest.mark.parametrize("story", NEAR_MISSES)
def test_correct_text_has_no_findings(story):
    assert not kinds(story)


def test_the_sample_corpus_has_nothing_above_info():
    corpus = load_corpus("sample", max_stories=500)
    report = check_quality(corpus.train, progress=False)
    assert report.stories == 500 and not report.errors and not report.warnings
    left, counts = clean_stories(corpus.train, progress=False)
    assert left["text"][:] == corpus.train["text"][:]
    assert counts == {"stories": 500, "split": 0, "kept": 500, "repaired": {}, "dropped": {}}


def test_special_tokens_of_a_custom_tokenizer():
    story = STORY.format("It was ~EOS~ red.")
    assert not kinds(story)
    assert kinds(story, special_tokens=["~EOS~", ""]) == {"special_tokens"}
    assert cleaned(story, special_tokens=["~EOS~"])[0] == [STORY.format("It was red.")]


# Mojibake


def as_windows(text):
    """UTF-8 decoded as Windows-1252, with its five undefined bytes passed through, as programs do."""
    one = (bytes([byte]) for byte in text.encode())
    return "".join(byte.decode("latin-1" if byte in b"\x81\x8d\x8f\x90\x9d" else "cp1252") for byte in one)


def as_latin(text):
    return text.encode().decode("latin-1")


WRONG_DECODINGS = {
    "windows": as_windows,
    "latin": as_latin,
    "twice": lambda text: as_windows(as_windows(text)),
    "mixed": lambda text: as_latin(as_windows(text)),
}
TEXTS = [
    "It’s red.", "“Oh!” she said.", "It was red… and blue – or green—both.", "In a café.", "Señor Peña, mañana!",
    "À la carte, où est-ce?", "Zoë was naïve.", "Übung in der Straße.", "Smørrebrød på Ærø.", "25 °C, £5, ½.",
    "😀 ❤ 👩\u200d🚀", "Dąb, łódź, żaba.", "Œuvre, cœur.", "Привет, мир!", "你好，世界。", "Γειά σου, κόσμε!",
    "«Tày», she said.", "SCHÖN, ÜBEL, NIÑO.",
]  # fmt: skip


@pytest.mark.parametrize("read", WRONG_DECODINGS.values(), ids=WRONG_DECODINGS)
@pytest.mark.parametrize("text", TEXTS)
def test_mojibake_is_found_and_repaired(text, read):
    story = STORY.format(text)
    assert "mojibake" not in kinds(story)
    assert "mojibake" in kinds(STORY.format(read(text)))
    assert cleaned(STORY.format(read(text)), drop=())[0] == cleaned(story, drop=())[0]


def test_repairing_mojibake_keeps_correct_text_beside_it():
    assert cleaned(STORY.format("“Itâ€™s a café…” "))[0] == [STORY.format("“It’s a café…”")]


def test_a_truncated_closing_quote_is_repaired_only_if_one_is_open():
    assert cleaned(STORY.format("“Let’s eatâ€. â€œYes!â€ he said."))[0] == [
        STORY.format("“Let’s eat”. “Yes!” he said.")
    ]
    kept, counts = cleaned(PLAIN, STORY.format("Let’s eatâ€ she said."), STORY.format("It was re\ufffd."))
    assert kept == [PLAIN] and counts["dropped"] == {"mojibake": 2}


# The report


def test_the_report_counts_stories_and_shows_where():
    stories = [
        PLAIN,
        STORY.format("A\x00 \u200bB\x00"),
        *among("C\x00"),
        *numbered(3),
        "One\x07 more: " + PLAIN,
        "\x00" + PLAIN,
    ]
    report = check_quality(stories, progress=False)
    control, invisible = report.errors
    assert (control.kind, control.count, control.fraction) == ("control_characters", 4, 0.5)
    assert (invisible.kind, invisible.count) == ("invisible_characters", 1)
    assert [example.story for example in control.examples] == [1, 2, 6]
    assert r"A\x00 \u200bB" in control.examples[0].excerpt and control.examples[0].excerpt.startswith("...")
    assert control.examples[2].excerpt.startswith(r"One\x07 more: Once upon")
    assert [finding.severity for finding in report.findings] == sorted(
        (finding.severity for finding in report.findings), key=quality.SEVERITIES.index
    )
    assert (report.stories, report.characters) == (8, sum(map(len, stories)))

    text = str(report)
    assert "50.00%" in text and KINDS["control_characters"].remedy in text and r"\x00" in text
    assert all(line.isprintable() for line in report.lines())
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["counts"]["control_characters"] == 4 and plain["counts"]["html"] == 0
    assert list(plain["counts"]) == list(KINDS)
    assert plain["findings"][0]["examples"][0] == {"story": 1, "excerpt": control.examples[0].excerpt}


def test_a_very_small_fraction_is_not_shown_as_zero():
    report = check_quality(iter([*numbered(30_000), ""]), progress=False)
    assert report.errors[0].examples == [quality.Example(30_000, "")] and "<0.01%" in str(report)


def test_a_limit_checks_the_first_stories_and_is_reported():
    stories = [*numbered(5), ""]
    report = check_quality(stories, limit=5, progress=False)
    assert not report.findings and "the first of 6" in str(report) and "suitable for training" in str(report)
    assert check_quality(stories, limit=6, progress=False).errors
    assert check_quality(stories, limit=99, progress=False).stories == 6


def test_lists_datasets_and_streams_give_the_same_report(tmp_path):
    stories = [*numbered(1_200), *HAS["html"], *numbered(10), "", *HAS["mojibake"]]
    dataset = Dataset.from_dict({"text": stories, "n": list(range(len(stories)))})
    expected = check_quality(stories, progress=False).as_dict()
    assert check_quality(dataset, progress=False).as_dict() == expected
    for source in iter(stories), dataset.to_iterable_dataset():
        assert check_quality(source, progress=False).as_dict() == {**expected, "total": None}


def test_invalid_input_is_an_error():
    for wrong in PLAIN, [b"bytes"], [PLAIN, 7], [], Dataset.from_dict({"story": [PLAIN]}):
        with pytest.raises(UserError):
            check_quality(wrong, progress=False)
    with pytest.raises(UserError, match="limit"):
        check_quality([PLAIN], limit=0)
    with pytest.raises(UserError, match="special_tokens"):
        check_quality([PLAIN], special_tokens="<x>")


# Duplicates


def test_duplicates_across_batches():
    stories = numbered(2_500)
    same_words = [
        stories[2].upper(),
        stories[1_700].replace(",", " - "),
        stories[3].replace(" ", "\n"),
    ]
    report = check_quality([*stories, stories[0], stories[1_100], *same_words, stories[0], "", ""], progress=False)
    found = {
        finding.kind: (finding.count, [example.story for example in finding.examples]) for finding in report.findings
    }
    assert found["duplicates"] == (3, [2_500, 2_501, 2_505])
    assert found["near_duplicates"] == (3, [2_502, 2_503, 2_504])
    assert found["empty"][0] == 2
    kept, counts = cleaned(*stories, stories[0], *same_words)
    assert kept == stories and counts["dropped"] == {"duplicates": 1, "near_duplicates": 3}


def test_curly_apostrophes_and_accents_in_duplicates():
    straight, curly = among("It's red, don't you see?", "It’s red, don’t you see?")
    assert "near_duplicates" in kinds(straight, curly)
    assert not kinds(*among("It was in a café.", "It was in a cafe."))


def test_the_digest_set_takes_8_bytes_per_digest():
    generator = np.random.default_rng(0)
    seen, known = quality.duplicates.DigestSet(), set()
    for size in generator.integers(1, 900, 200):
        digests = generator.integers(0, 60_000, size).astype("<u8")
        expected = []
        for digest in digests.tolist():
            expected.append(digest in known)
            known.add(digest)
        assert seen.add(digests).tolist() == expected
    assert sum(run.nbytes for run in seen._runs) == 8 * len(known)
    assert len(seen._runs) < 15


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text():
    def peak(batches):
        stories = (f"Story {number}. {PLAIN * 3}" for number in range(batches * quality.reading.BATCH))
        tracemalloc.start()
        check_quality(stories, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    grown = peak(7) - peak(3)  # by 4,000 stories, 2.5 MB
    assert grown < 4_000 * 100


# Cleaning


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("It was &quot;red&quot; &amp; big.", 'It was "red" & big.'),
        ("I &lt;3 it, &amp;amp; you&#39;re right.", "I <3 it, & you're right."),
        ("\ufeffIt was\x00 re\u200bd\xad.\x07", "It was red."),
        ("It was\x0cred.\r\nAnd\tbig.\u2028\u2028\u2028Very\xa0 big.", "It was\nred.\nAnd big.\n\nVery big."),
        ("<s>It was<pad> red.</s>And big.<|eot_id|>", "It was red. And big."),
        ('She said, \\"It\\\'s red.\\"\\n\\nOh!', 'She said, "It\'s red."\n\nOh!'),
        ("<|im_<pad>start|>It was red.", "It was red."),
        ("\x93Oh!\x94 she said. It\x92s red\x85", "“Oh!” she said. It’s red…"),
        ("👩\u200d🚀 flew.\u200d", "👩\u200d🚀 flew."),
        ("It was AT&T; it was 3 < 5…", "It was AT&T; it was 3 < 5…"),
    ],
)
def test_repairs(dirty, clean):
    stories, counts = cleaned(STORY.format(dirty))
    assert stories == [STORY.format(clean)]
    assert bool(counts["repaired"]) == (dirty != clean)
    assert not {*kinds(*stories)} & {*ERRORS}


def test_an_end_of_text_inside_a_story_splits_it():
    stories = numbered(3)
    joined = "<|endoftext|>".join(["", *stories, "\n"])
    kept, counts = cleaned(joined, "<|endoftext|>", PLAIN)
    assert kept == [*stories, PLAIN]
    assert counts["stories"] == 3 and counts["split"] == 2 and counts["kept"] == 4
    assert counts["dropped"] == {"empty": 1} and counts["repaired"] == {"special_tokens": 2, "spaces": 1}


@pytest.mark.parametrize("kind", [*ERRORS, *(kind for kind in KINDS if KINDS[kind].severity == "warning")])
def test_each_kind_is_repaired_or_dropped_and_counted(kind):
    stories = HAS.get(kind) or [PLAIN, PLAIN if kind == "duplicates" else PLAIN.upper()]
    kept, counts = cleaned(*stories, *numbered(1))
    dropped = sum(counts["dropped"].values())
    assert counts["stories"] == len(stories) + 1 == len(kept) + dropped - counts["split"]
    left = check_quality(kept, progress=False)
    assert not left.errors and not {finding.kind for finding in left.findings} & {*DROPPED, "spaces"}
    if kind in (*ERRORS, *DROPPED):
        assert counts["repaired"].get(kind, 0) + counts["dropped"].get(kind, 0) > 0
    else:
        assert kept == [*stories, *numbered(1)]


def test_chosen_warnings_are_dropped_and_errors_always():
    stories = [PLAIN, PLAIN, "Too short.", SPANISH, STORY.format("<b>red</b>")]
    assert cleaned(*stories, drop=())[0] == stories[:4]
    assert cleaned(*stories, drop=["not_english", "duplicates"])[0] == [PLAIN, "Too short."]
    for wrong in ["html"], ["spaces"], ["nonsense"]:
        with pytest.raises(UserError, match=wrong[0]):
            clean_stories(stories, drop=wrong)


def test_no_story_left_is_an_error_with_the_reason():
    with pytest.raises(UserError, match=r"very_short: 1.*html|html: 1.*very_short: 1"):
        cleaned("Too short.", STORY.format("<b>red</b>"))
    with pytest.raises(UserError):
        cleaned()


def corrupted(count, seed=0):
    """Stories with one to six broken pieces at random positions, which may be adjacent."""
    generator = random.Random(seed)
    head, tail = STORY.split("{}")
    pieces = [story.removeprefix(head).removesuffix(tail) for kind in HAS for story in HAS[kind] if story]
    pieces = [piece for piece in pieces if len(piece) < 60 and "\ud83d" not in piece]
    pieces += [
        "<|endoftext|>",
        "&amp;lt;b&amp;gt;",
        "&#0;",
        "<|im_",
        "end|>",
        "&",
        "amp;",
        "â€",
        "Ã",
        "\\",
        "“",
        "\x9d",
        "\x85",
    ]
    stories = []
    for number, story in enumerate(numbered(count)):
        story = STORY.format(story) if number % 2 else story
        for _ in range(generator.randint(0, 6)):
            at = generator.randrange(len(story))
            story = story[:at] + generator.choice(pieces) + story[at:]
        stories.append(as_windows(story) if number % 7 == 0 else story)
    return stories


def test_cleaned_stories_have_no_errors_and_cleaning_again_changes_nothing():
    stories = corrupted(1_500)
    assert len(check_quality(stories, progress=False).errors) == len(ERRORS) - 1  # none is empty
    once, counts = cleaned(*stories)
    assert 300 < len(once) < 1_400 and len(counts["repaired"]) == len(quality.clean.REPAIRS) + 1
    report = check_quality(once, progress=False)
    assert not report.errors and not {finding.kind for finding in report.findings} & {*DROPPED, "spaces"}
    twice, counts = cleaned(*once)
    assert twice == once and not counts["repaired"] and not counts["dropped"] and not counts["split"]


def test_a_dataset_on_disk_stays_on_disk_and_is_counted_each_time(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(json.dumps({"n": 1, "text": story}) for story in corrupted(1_200)), encoding="utf-8")
    stories = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    first, counts = clean_stories(stories, progress=False)
    again, same = clean_stories(stories, progress=False)
    assert counts == same and counts["stories"] == 1_200
    assert first.cache_files and first.column_names == ["text"]
    assert first["text"][:] == again["text"][:] == cleaned(*corrupted(1_200))[0]
    assert len(list((tmp_path / "cache").rglob("cache-*.arrow"))) == 1
    with pytest.raises(UserError, match="stream"):
        clean_stories(stories.to_iterable_dataset())


# Writing


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.parquet"])
def test_a_written_file_is_read_back(name, tmp_path):
    stories = [*corrupted(1_300), STORY.format("“Itâ€™s…” 😀\u2028\n\nŠtěpán.")]
    out = tmp_path / "new" / name
    counts = write_clean(Dataset.from_dict({"text": stories}), out)
    kept = load_texts(str(out), cache_dir=str(tmp_path / "cache"))["text"][:]
    assert len(kept) == counts["kept"] and kept[-1] == STORY.format("“It’s…” 😀\n\nŠtěpán.")
    assert not check_quality(kept, progress=False).errors
    assert [path.name for path in out.parent.iterdir()] == [name]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_written_corpus_is_read_back_with_its_splits(streaming, tmp_path):
    train, held = numbered(1_200), numbered(20, start=5_000)
    dirty = STORY.format("It was ball number 5001.&nbsp;")
    train_set = Dataset.from_dict({"text": [*train, dirty, "Too short.", train[0]]})
    corpus = Corpus(
        train_set.to_iterable_dataset() if streaming else train_set,
        Dataset.from_dict({"text": [*held, STORY.format("<b>red</b>")]}),
        "mine",
        "0",
    )
    out = tmp_path / "clean"
    out.mkdir()  # an empty folder may be there
    counts = write_clean(corpus, out, progress=False)
    assert counts["validation"]["dropped"] == {"html": 1}
    assert counts["train"] == {
        "stories": 1_203, "split": 0, "kept": 1_200, "repaired": {"html_entities": 1, "spaces": 1},
        "dropped": {"very_short": 1, "duplicates": 2},
    }  # fmt: skip
    back = load_corpus(str(out), cache_dir=str(tmp_path / "cache"))
    assert back.train["text"][:] == train and back.validation["text"][:] == held
    assert sorted(path.name for path in out.iterdir()) == ["train.jsonl", "validation.jsonl"]


@pytest.mark.parametrize("end", ["\r\n", "\r", "\u2028"])
def test_line_ends_of_a_file_need_no_cleaning(end, tmp_path):
    stories = [story.replace(". ", f".{end}") for story in numbered(80)]
    assert any(end in story for story in stories)
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories), "utf-8")
    corpus = load_corpus(str(source), cache_dir=str(tmp_path / "cache"))
    counts = write_clean(corpus, tmp_path / "out", progress=False)
    assert not counts["train"]["repaired"] and not counts["validation"]["repaired"]
    found = check_quality(corpus.train, progress=False)
    assert "spaces" not in {finding.kind for finding in found.findings}


def test_existing_files_are_not_overwritten(tmp_path):
    corpus = Corpus(Dataset.from_dict({"text": numbered(3)}), Dataset.from_dict({"text": [PLAIN]}), "mine", "0")
    (tmp_path / "clean").mkdir()
    mine = tmp_path / "clean" / "mine.txt"
    file = tmp_path / "clean.jsonl"
    mine.write_text("mine")
    file.write_text("mine")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    for stories, out in [
        *((corpus, tmp_path / "clean"), (corpus, file), (numbered(3), file), (numbered(3), mine / "a.jsonl")),
        *(
            (numbered(3), tmp_path / "link.jsonl"),
            (numbered(3), tmp_path / "a.txt"),
            (numbered(3), tmp_path / "clean"),
        ),
    ]:
        with pytest.raises(UserError):
            write_clean(stories, out, progress=False)
    assert mine.read_text() == file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "clean.jsonl", "link.jsonl"]


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.parquet"])
def test_no_partial_file_is_left(name, tmp_path):
    def breaking_off():
        yield from numbered(2_500)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_clean(breaking_off(), tmp_path / name, progress=False)
    with pytest.raises(UserError, match="Cleaning would drop every story"):
        write_clean(["Too short."], tmp_path / name, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_one_line_error(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quality.clean.Path, "rename", full)
    with pytest.raises(UserError, match="No space left"):
        write_clean(numbered(3), tmp_path / "clean.jsonl", progress=False)
    assert not list(tmp_path.iterdir())


def test_progress_goes_to_stderr_or_nowhere(capfd, tmp_path):
    check_quality(numbered(3))
    assert "Checking stories" in capfd.readouterr().err
    stories = Dataset.from_dict({"text": numbered(3)})
    check_quality(stories, progress=False)
    clean_stories(stories, progress=False)
    write_clean(stories, tmp_path / "clean.jsonl", progress=False)
    out, err = capfd.readouterr()
    assert not out and not err
