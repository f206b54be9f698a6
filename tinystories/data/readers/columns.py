"""The column with the stories."""

from collections.abc import Iterable

import pyarrow as pa

from ...utils.errors import UserError


def find_column(names: Iterable[str], wanted: str, file: str) -> str:
    """The name of the column `wanted`, matched without case.

    Raises:
        UserError: if there is no such column, or more than one.
    """
    names = list(map(str, names))
    for name in (wanted, "story") if wanted.strip().lower() == "text" else (wanted,):
        if names.count(name) == 1:
            return name
        alike = [other for other in names if other.strip().lower() == name.strip().lower()]
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise UserError(f"{file} has {len(alike)} columns named {wanted}: give each column a unique name.")
    shown = ", ".join(name[:40] for name in names[:20]) or "none"
    raise UserError(
        f"{file} has no column {wanted}: specify the column of the stories with --text-column (columns: {shown})."
    )


def find_fields(names: Iterable[str], wanted: Iterable[str], file: str) -> list[str]:
    """The names of further columns, matched without case.

    Raises:
        UserError: if one is missing, or occurs twice.
    """
    names = list(map(str, names))
    found = []
    for field in wanted:
        alike = [name for name in names if name.strip().lower() == field.lower()]
        if len(alike) != 1:
            shown = ", ".join(name[:40] for name in names[:20]) or "none"
            number = "no column" if not alike else f"{len(alike)} columns named"
            raise UserError(
                f"{file} has {number} {field}, a field of the template (columns: {shown}); `tinystories annotate` "
                f"derives the columns words, summary and features."
            )
        found += alike
    return found


def require_field(kind: pa.DataType, column: str, file: str) -> None:
    """Raise a UserError if a column of the type `kind` holds neither text nor lists of texts."""
    is_list = any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    if not _is_text(kind.value_type if is_list else kind):
        raise UserError(
            f"The column {column} of {file}, a field of the template, is of type {kind}, not text or lists of texts."
        )


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(value) for is_kind in is_text + is_bytes)


def require_text(kind: pa.DataType, column: str, file: str, names: Iterable[str]) -> None:
    """Raise a UserError if a column of the type `kind` cannot hold stories."""
    if not _is_text(kind):
        raise UserError(
            f"The column {column} of {file} is of type {kind}, not text: specify the column of the stories "
            f"with --text-column (columns: {', '.join(names)})."
        )
