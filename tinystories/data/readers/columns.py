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


def require_text(kind: pa.DataType, column: str, file: str, names: Iterable[str]) -> None:
    """Raise a UserError if a column of the type `kind` cannot hold stories."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(value) for is_kind in is_text + is_bytes):
        raise UserError(
            f"The column {column} of {file} is of type {kind}, not text: specify the column of the stories "
            f"with --text-column (columns: {', '.join(names)})."
        )
