"""The template in front of a story, in Python and as a chat template."""

import pytest

from tinystories.runs.builtin_model import FOLDER
from tinystories.runs.loading import load_tokenizer
from tinystories.story_template import StoryTemplate
from tinystories.utils.errors import UserError


TEXT = "Features: {features}\nWords: {words}\nSummary: {summary}\nStory:"
BOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer with the template, saved and loaded."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load_tokenizer(FOLDER)
    StoryTemplate(TEXT).add_to(tokenizer)
    tokenizer.save_pretrained(folder)
    return load_tokenizer(folder)


def chat(tokenizer, *contents, **fields):
    """The prompt of a chat in which user and assistant alternate."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]
    options = {"continue_final_message": True} if len(contents) % 2 == 0 else {"add_generation_prompt": True}
    return tokenizer.apply_chat_template(messages, tokenize=False, **options, **fields)


def test_lines_with_an_empty_field_are_left_out():
    template = StoryTemplate(TEXT)
    assert template.fields == ["features", "words", "summary"]
    assert template.render({"words": "dragon,  key\n"}) == "Words: dragon, key\nStory:\n"
    assert template.render({"words": "", "summary": "A cat.", "features": "moral"}) == (
        "Features: moral\nSummary: A cat.\nStory:\n"
    )
    assert template.render({"words": "a", "summary": "b"}, without=[1]) == "Summary: b\nStory:\n"
    assert template.render({}) == template.render({"words": " "}) == ""


def test_braces_and_lines_with_several_fields():
    template = StoryTemplate(r"{{{words}}} in \n{place} at {time}!")
    assert template.render({"words": "a", "place": "b"}) == "{a} in\n"
    assert template.render({"place": "b", "time": "c"}) == "b at c!\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Story:", "no field"),
        ("Words: {}", "not a field"),
        ("Words: {words!r}", "not a field"),
        ("Words: {words:>3}", "not a field"),
        ("Words: {a.b}", "not a field"),
        ("{text}", "{text} is a reserved name"),
        ("Words: {words", "not valid"),
        ("Words: words}", "not valid"),
    ],
)
def test_invalid_templates(text, words):
    with pytest.raises(UserError, match=words):
        StoryTemplate(text)


def test_the_fields_of_a_request_are_checked():
    template = StoryTemplate(TEXT)
    template.check_fields({"words": "a"})
    with pytest.raises(UserError, match="no field genre; its fields are features, words, summary"):
        template.check_fields({"genre": "a"})
    with pytest.raises(UserError, match="No line"):
        template.check_fields({"words": " "})


def test_a_tokenizer_is_saved_with_its_template(tokenizer):
    saved = StoryTemplate.of_tokenizer(tokenizer)
    assert saved is not None and saved.text == TEXT
    assert StoryTemplate.of_tokenizer(load_tokenizer(FOLDER)) is None


FIELDS = [
    {},
    {"words": "dragon, key, rain"},
    {"words": "a\n b", "summary": 'It\'s "so" {{ bad }} {% if %} 🦊 \\n'},
    {"features": "moral", "words": "a", "summary": "b"},
    {"summary": ""},
]


@pytest.mark.parametrize("text", [TEXT, "{{ {words} }}\n{features}: 🦊 {summary} \"'%}} }}", "a\nb {words} {summary}"])
@pytest.mark.parametrize("fields", FIELDS)
def test_the_chat_template_gives_the_same_text(text, fields, tokenizer):
    template = StoryTemplate(text)
    copy = load_tokenizer(FOLDER)
    template.add_to(copy)
    for begin in ("", "Once upon a time", "One day,\n\nTom said: "):
        assert chat(copy, begin, **fields) == BOS + template.render(fields) + begin


@pytest.mark.parametrize("fields", FIELDS[:2] + FIELDS[3:])
def test_fields_may_be_lines_of_the_user_message(fields, tokenizer):
    template = StoryTemplate(TEXT)
    lines = "".join(f"{name.upper()}: {value}\n" for name, value in fields.items())
    for begin in ("", "Once upon a time", "One day,\n\nTom said"):
        assert chat(tokenizer, f"{lines}story:\n{begin}" if fields else begin) == BOS + template.render(fields) + begin


def test_arguments_take_precedence_and_earlier_turns_are_ignored(tokenizer):
    assert chat(tokenizer, "Words: a", words="b") == BOS + "Words: b\nStory:\n"
    assert chat(tokenizer, "Words: a", "Once.", "Words: b") == BOS + "Words: b\nStory:\n"
    assert chat(tokenizer, "Words: a", "Once upon") == BOS + "Words: a\nStory:\nOnce upon"
    system = [{"role": "system", "content": "Words: a"}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(system, tokenize=False, add_generation_prompt=True) == BOS + "Hi"
    answered = [{"role": "user", "content": "Words: a"}, {"role": "assistant", "content": "Once."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == BOS + "Words: a\nStory:\nOnce." + BOS
