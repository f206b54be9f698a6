"""JSON: one value per line, a single value, or a list of values."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from ...utils.errors import UserError, first_line
from ..formats import compression
from .columns import find_column
from .contents import open_text
from .reading import MAX_ROW, Reading
from .texts import text_arrays


_DECODER = json.JSONDecoder(parse_int=float)  # an integer may have any number of digits
_WHITESPACE = re.compile(r"\s*")


def read_json(reading: Reading) -> Iterator[list[pa.Array]]:
    """One value per line, a single value, or a list of values; a list is read into memory as a whole."""
    name = reading.file.name
    with open_text(reading) as text:
        lines = enumerate(iter(partial(text.readline, MAX_ROW), ""), 1)
        number, line = next((numbered for numbered in lines if numbered[1].strip()), (1, ""))
        if line.lstrip().startswith("["):
            place, values = "item {:,}", _json_items(name, line + text.read())
        else:
            is_json = name.lower().removesuffix(f".{compression(name)}").endswith(".json")
            if is_json and isinstance(_decode(line), Exception):
                line += text.read()  # one object on several lines
            place, values = "line {:,}", _json_lines(reading, chain([(number, line)], lines))
        yield from text_arrays(reading, place, _json_rows(reading, place, values))


def _json_lines(reading: Reading, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str, Any]]:
    """The number, the source and the value of each line."""
    for number, line in lines:
        if len(line) >= MAX_ROW:
            raise UserError(f"{reading.file.name}, line {number:,}: the line has more than {MAX_ROW:,} characters.")
        if line := line.rstrip():
            value = _decode(line)
            if isinstance(value, Exception):
                number += getattr(value, "lineno", 1) - 1
                reading.bad_row(f"line {number:,}", f"not valid JSON: {_json_problem(value)}")
            else:
                yield number, line, value


def _json_items(name: str, text: str) -> Iterator[tuple[int, str, Any]]:
    """The number, the source and the value of each item of a list."""
    at, number = _skip_whitespace(text, text.index("[") + 1), 1
    try:
        while text[at : at + 1] != "]":
            value, end = _DECODER.raw_decode(text, at)
            yield number, text[at:end], value
            at, number = _skip_whitespace(text, end), number + 1
            if text[at : at + 1] == ",":
                at = _skip_whitespace(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name}, item {number:,}: truncated, or not valid JSON: {_json_problem(error)}. Correct the item, or "
            f"write or download the file again."
        ) from None
    if text[at + 1 :].strip():
        raise UserError(f"{name} continues after the end of its list: write a single list, or one row per line.")


def _skip_whitespace(text: str, begin: int) -> int:
    match = _WHITESPACE.match(text, begin)
    return match.end() if match else begin


def _decode(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return error


def _json_problem(error: Exception) -> str:
    return getattr(error, "msg", first_line(error)).removesuffix(" at")


def _json_rows(
    reading: Reading, place: str, values: Iterable[tuple[int, str, Any]]
) -> Iterator[tuple[int, list[str | None]]]:
    wanted, column, fields = reading.options.text_column, None, reading.options.fields
    for number, source, value in values:
        if isinstance(value, str):  # a list of stories without columns
            yield number, [value, *[None] * len(fields)]
            continue
        if isinstance(value, dict) and column not in value:
            try:
                column = find_column(value, wanted, reading.file.name)
            except UserError:
                if column is None and not reading.options.skip_bad_rows:
                    raise
        if problem := _row_problem(value, column or wanted, source) or _field_problem(value, fields):
            reading.bad_row(place.format(number), problem)
        else:
            yield number, [value[column], *(_cell(value, field) for field in fields)]


def _value(row: dict, field: str) -> Any:
    return row[field] if field in row else next((row[name] for name in row if name.lower() == field.lower()), None)


def _cell(row: dict, field: str) -> str | None:
    """The text of a field, which may be missing, or a list of texts."""
    value = _value(row, field)
    return ", ".join(filter(None, value)) if isinstance(value, list) else value


def _field_problem(row: dict, fields: tuple[str, ...]) -> str | None:
    for field in fields:
        value = _value(row, field)
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str | None) for text in texts):
            return f"`{field}` is neither a string nor a list of strings"
    return None


def _row_problem(row: Any, column: str, source: str) -> str | None:
    if not isinstance(row, dict):
        return f"{_json_type(row)} instead of an object with the key `{column}`"
    if column not in row:
        return f"no `{column}`, only {', '.join(row)[:200]}"
    if not isinstance(row[column], str | None):
        return f"`{column}` is {_json_type(row[column])}, not a string"
    if source.count(f'"{column}"') > 1 and _is_repeated(column, source):
        return f"`{column}` occurs twice"
    return None


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", float: "a number", type(None): "null"}
    return names[type(value)]


def _is_repeated(key: str, source: str) -> bool:
    pairs = json.JSONDecoder(parse_int=float, object_pairs_hook=list).decode(source)
    return [name for name, _ in pairs].count(key) > 1
