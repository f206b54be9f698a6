r"""The template that a model is trained with: text with fields of the corpus in front of each story.

    template = StoryTemplate("Words: {words}\nSummary: {summary}\nStory:")
    template.render({"words": "dragon, key, rain"})  # "Words: dragon, key, rain\nStory:\n"

- A line with an empty field is left out. Lines without fields, such as `Story:`, are left out if no other line
  remains, so that a story without any field stands alone.
- The rendered template ends with a line end, at which every tokenizer separates tokens.
- `chat_template` is the same function as a chat template of transformers. The tokenizer of a model is saved with both:
  the template, from which `of_tokenizer` reads it, in `tokenizer_config.json`.
"""

import json
from collections.abc import Collection, Mapping
from string import Formatter
from typing import TYPE_CHECKING, NamedTuple

from .utils.errors import UserError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "story_template"  # in tokenizer_config.json
# Names that mean something else in a corpus or in a chat template.
RESERVED = frozenset(
    """text prompt messages message add_generation_prompt tools documents bos_token eos_token pad_token unk_token loop
    story field line begin given""".split()
)


class Line(NamedTuple):
    """A line: pairs of literal text and the field after it, or None at the end."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> list[str]:
        return [name for _, name in self.parts if name is not None]

    @property
    def label(self) -> str:
        """The text before the field of a line that ends with its only field, such as `Words:`; otherwise empty."""
        return self.parts[0][0].strip() if len(self.parts) == 1 and self.fields else ""


class StoryTemplate:
    r"""A template.

    Args:
        text: with fields as `{name}`; `{{` and `}}` are braces, and `\n`, as on a command line, is a line end.

    Attributes:
        fields: names of the fields, in their order.

    Raises:
        UserError: for a text without fields, or with invalid ones.
    """

    def __init__(self, text: str):
        self.text = text.replace("\\n", "\n").strip("\n")
        self.lines = [_parse(line) for line in self.text.split("\n")]
        self.fields = list(dict.fromkeys(name for line in self.lines for name in line.fields))
        if not self.fields:
            raise UserError("`template` has no field: write the name of a column in braces, such as {words}.")

    @classmethod
    def of_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase") -> "StoryTemplate | None":
        """The template of a model; None if it was trained without one."""
        text = tokenizer.init_kwargs.get(KEY)
        return cls(text) if isinstance(text, str) else None

    def add_to(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Let a tokenizer save the template, and its chat template with it."""
        tokenizer.init_kwargs[KEY] = self.text
        tokenizer.chat_template = self.chat_template()

    def render(self, values: Mapping[str, str], *, without: Collection[int] = ()) -> str:
        """The text in front of a story, empty if there is no line with fields.

        Args:
            values: by field; a missing one is empty. White space in them becomes single spaces.
            without: numbers of lines that are left out.
        """
        clean = {name: " ".join(values.get(name, "").split()) for name in self.fields}
        lines, has_field = [], False
        for number, line in enumerate(self.lines):
            if number not in without and all(clean[name] for name in line.fields):
                lines.append("".join(text + (clean[name] if name else "") for text, name in line.parts))
                has_field |= bool(line.fields)
        return "".join(line + "\n" for line in lines) if has_field else ""

    def check_fields(self, values: Mapping[str, str]) -> None:
        """Raises `UserError` for a field that the template does not have, and if all are empty."""
        if unknown := [name for name in values if name not in self.fields]:
            raise UserError(f"The model has no field {unknown[0]}; its fields are {', '.join(self.fields)}.")
        if not self.render(values):
            raise UserError(f"No line of the model's template is complete: give {' or '.join(self.fields)}.")

    def chat_template(self) -> str:
        """A chat template of transformers in Jinja.

        Fields are arguments of `apply_chat_template`, or lines of the last user message that begin like a line of the
        template (`Words: dragon, key`). The rest of the message is the beginning of the story.
        """
        labels = [line.label for line in self.lines]
        reading: list[str] = []
        for line, label in zip(self.lines, labels, strict=True):
            if label:
                keyword = "if" if not reading else "elif"
                reading.append(
                    f"        {{%- {keyword} line.strip().lower().startswith({_quoted(label.lower())}) -%}}\n"
                    f"            {{%- set field.{line.fields[0]} = line.strip()[{len(label)}:] -%}}\n"
                )
            elif not line.fields and (text := line.parts[0][0].strip() if line.parts else ""):
                keyword = "if" if not reading else "elif"
                reading.append(
                    f"        {{%- {keyword} line.strip().lower() == {_quoted(text.lower())} -%}}\n"
                    f"            {{#- a line of the template -#}}\n"
                )
        rest = "{%- set field.begin = field.begin ~ line ~ '\\n' -%}"
        body = "".join(reading) + f"        {{%- else -%}}{rest}{{%- endif -%}}\n" if reading else f"        {rest}\n"
        given = "".join(
            f"{{%- set field.{name} = ({name} if {name} is defined else field.{name}) | string -%}}\n"
            f"{{%- set field.{name} = field.{name}.split() | join(' ') -%}}\n"
            for name in self.fields
        )
        lines = []
        for line in self.lines:
            condition = " and ".join(f"field.{name}" for name in line.fields) or "field.given"
            content = " ~ ".join(
                _quoted(text) + (f" ~ field.{name}" if name is not None else "") for text, name in line.parts
            )
            lines.append(f"    {{%- if {condition} -%}}{{{{- {content or _quoted('')} ~ '\\n' -}}}}{{%- endif -%}}\n")
        any_line = " or ".join(
            "(" + " and ".join(f"field.{name}" for name in line.fields) + ")" for line in self.lines if line.fields
        )
        names = ", ".join(f'{name}=""' for name in self.fields)
        return _CHAT_TEMPLATE.format(
            names=names, body=body, given=given, any_line=any_line, lines="".join(lines)
        )  # fmt: skip


_CHAT_TEMPLATE = """\
{{%- set story = namespace(at=-1) -%}}
{{%- set field = namespace(begin="", given=false, {names}) -%}}
{{%- for message in messages -%}}
    {{%- if message.role == "user" -%}}
        {{%- set story.at = loop.index0 -%}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if story.at >= 0 -%}}
    {{%- for line in messages[story.at].content.split("\\n") -%}}
{body}\
    {{%- endfor -%}}
    {{%- set field.begin = field.begin[:-1] -%}}
{{%- endif -%}}
{given}\
{{%- set field.given = {any_line} -%}}
{{{{- bos_token -}}}}
{{%- if field.given -%}}
{lines}\
{{%- endif -%}}
{{{{- field.begin -}}}}
{{%- for message in messages[story.at + 1:] if message.role == "assistant" -%}}
    {{{{- message.content -}}}}
{{%- endfor -%}}
{{%- if messages and messages[-1].role == "assistant" and not add_generation_prompt -%}}
    {{{{- eos_token -}}}}
{{%- endif -%}}
"""


def _parse(line: str) -> Line:
    try:
        parsed = list(Formatter().parse(line.rstrip()))
    except ValueError as error:
        raise UserError(
            f"`template`: {line.strip()!r} is not valid: {error}; write {{{{ and }}}} for braces."
        ) from None
    parts: list[tuple[str, str | None]] = []
    text = ""
    for literal, name, form, conversion in parsed:
        text += literal
        if name is None:
            continue
        if name in RESERVED:
            raise UserError(f"`template`: {{{name}}} is a reserved name: give the column another name.")
        if not name.isidentifier() or name.startswith("_") or form or conversion:
            raise UserError(f"`template`: {{{name}}} is not a field: use the name of a column, such as {{words}}.")
        parts.append((text, name))
        text = ""
    if text or not parts:
        parts.append((text, None))
    return Line(tuple(parts))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
