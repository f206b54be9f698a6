"""The format and the compression of a file by the suffixes of its name."""

from pathlib import Path


FORMATS = {
    **dict.fromkeys((".txt", ".md", ".markdown"), "text"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".parquet": "parquet",
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
SUFFIXES = (
    ".txt, .md, .markdown, .json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow or .feather (optionally followed by "
    ".gz, .bz2, .xz or .zst)"
)


def file_format(path: Path | str) -> str | None:
    """The format of a file by its name: text, json, csv, parquet or arrow; None for any other file."""
    return FORMATS.get(name_suffixes(path)[0])


def compression(path: Path | str) -> str | None:
    """The compression of a file by its name: gzip, bz2, xz, zstd or None."""
    return COMPRESSIONS.get(name_suffixes(path)[1])


def name_suffixes(path: Path | str) -> tuple[str, str]:
    """The suffix of the format, and that of the compression or ""."""
    name = Path(str(path).lower())
    return (Path(name.stem).suffix, name.suffix) if name.suffix in COMPRESSIONS else (name.suffix, "")
