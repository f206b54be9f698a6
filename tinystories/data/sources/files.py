"""Find the files of a corpus, before anything is loaded.

- The suffix of a file gives its format, and an optional second one its compression. A document that other programs can
  convert to text (.docx, .pdf) is refused with the command that converts it.
- Folders are searched recursively through links, each folder once. Skipped files are logged.
"""

import glob
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...utils.console import counted
from ...utils.errors import UserError
from ...utils.paths import refuse_special_file
from ..formats import SUFFIXES, file_format, name_suffixes
from .split_names import split_names


logger = logging.getLogger(__name__)

DESCRIPTIONS = {  # files that describe the data
    *("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"),
    *(f"metadata{ending}" for ending in (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".md")),
    *(name + ending for name in ("readme", "license", "licence", "changelog", "notice") for ending in (".md", ".txt")),
}
_PANDOC = "pandoc -t plain --wrap=none {file} -o {name}.txt"
CONVERTERS = {
    **dict.fromkeys((".docx", ".odt", ".rtf", ".epub", ".html", ".htm"), _PANDOC),
    **dict.fromkeys((".mobi", ".azw3"), "ebook-convert {file} {name}.txt"),
    ".pdf": "pdftotext {file} {name}.txt",
    ".doc": "libreoffice --headless --convert-to txt:Text {file}",
    ".xlsx": "libreoffice --headless --convert-to csv {file}",
    ".zip": "unzip {file}",
    **dict.fromkeys((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"), "tar -xf {file}"),
}


def hub_dataset(source: str) -> tuple[str, str | None, str | None] | None:
    """Repository, configuration and revision of a dataset on the Hub; None for the sample, a file, folder or pattern.

    Raises:
        UserError: for anything else.
    """
    path = Path(source).expanduser()
    if source == "sample" or (source and (path.exists() or glob.has_magic(source))):
        return None
    if source and path.is_symlink():
        raise UserError(f"{source} is a broken link to {os.readlink(path)}.")
    hub = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?", source)
    if not hub or file_format(path):
        raise UserError(
            f"There is no file or folder {source or repr(source)}, and it is not the id of a dataset on the Hub "
            f"(owner/name)."
        )
    return hub[1], hub[2], hub[3]


class StoryFiles(NamedTuple):
    """The files of a corpus by split, and the folder that their names are relative to."""

    splits: dict[str, list[Path]]
    root: Path

    def describe(self) -> str:
        """The files of each split, for the log."""
        return "; ".join(f"{split}: {self._some(files)}" for split, files in self.splits.items())

    def _some(self, files: list[Path]) -> str:
        names = [str(file.relative_to(self.root)) for file in files[:3]]
        return f"{', '.join(names)}, ... ({len(files):,} files)" if len(files) > len(names) else ", ".join(names)


def find_files(path: Path) -> StoryFiles:
    """The files of a file, folder or pattern by split; all are "train" unless their names say otherwise.

    Raises:
        UserError: for a file of another format, a folder that cannot be read, and if there are no files.
    """
    refuse_special_file(path)
    if path.is_file():
        if not file_format(path):
            raise UserError(_conversion(path))
        return StoryFiles({"train": [path]}, path.parent)
    root, found = (path, _walk(path)) if path.is_dir() else _expand(path)
    found = sorted(found)
    data = [file for file in found if file_format(file) and file.name.lower() not in DESCRIPTIONS]
    stories = [file for file in data if not _is_description(file)] or data
    unique: dict[str, Path] = {}
    for file in stories:
        first = unique.setdefault(os.path.realpath(file), file)
        if first != file:
            logger.warning("%s: skipped, because it is the same file as %s", file, first)
    files = list(unique.values())
    documents = [file for file in found if _converter(file)]
    if not files:
        raise UserError(
            _conversion(documents[0]) if documents else f"{path} contains no files that end in {SUFFIXES}."
        )
    if documents:
        number = counted(len(documents), "document")
        logger.warning("%s: skipped %s; for example, %s", path, number, _conversion(documents[0]))
    if others := [file.name for file in found if file_format(file) and file not in stories]:
        names = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        logger.info("%s: skipped files that only describe the data: %s", path, names)
    splits: dict[str, list[Path]] = {}
    for file, split in zip(files, split_names([file.relative_to(root) for file in files]), strict=True):
        splits.setdefault(split, []).append(file)
    return StoryFiles(splits, root)


def may_hold_stories(path: Path) -> bool:
    """Whether a path is, or a folder contains, a file of a known format or one that can be converted."""
    files = [path] if path.is_file() else _walk(path, quiet=True)
    return any(file_format(file) or _converter(file) for file in files)


def _converter(file: Path) -> str | None:
    return CONVERTERS.get("".join(name_suffixes(file)))


def _conversion(file: Path) -> str:
    command = _converter(file)
    if command is None:
        return f"{file} does not end in {SUFFIXES}: convert it to one of these formats, or correct its suffix."
    return f"{file} cannot be read directly; convert it first: `{command.format(file=file.name, name=file.stem)}`."


def _walk(folder: Path, quiet: bool = False) -> Iterator[Path]:
    """The files in a folder, recursively and through links, except hidden ones; broken links are logged."""
    level = logging.DEBUG if quiet else logging.WARNING

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.")

    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            inner = os.path.join(place, name)
            real = os.path.realpath(inner)
            if real in seen:
                logger.log(level, "%s: skipped, because it links to a folder that has been read already", inner)
                folders.remove(name)
            seen.add(real)
        for name in names:
            file = Path(place, name)
            if name.startswith("."):
                continue
            if file.is_file():
                yield file
            elif file.is_symlink():
                logger.log(level, "%s: skipped, because it is a broken link to %s", file, os.readlink(file))


def _expand(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder before the first wildcard, and the files that match, including those in matching folders."""
    parts = pattern.parts
    fixed = next((count for count, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    files: list[Path] = []
    for match in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        if match.is_dir():
            # `**` matches the files in folders, too
            files += _walk(match) if parts[-1] != "**" else []
        elif match.is_file():
            files.append(match)
        elif match.is_symlink():
            logger.warning("%s: skipped, because it is a broken link to %s", match, os.readlink(match))
    return Path(*parts[:fixed]), list(dict.fromkeys(files))


def _is_description(file: Path) -> bool:
    """Whether a .json is one object without a story, such as a description of the data."""
    if file.suffix.lower() != ".json" or file.stat().st_size > 1 << 20:
        return False
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not any(
        isinstance(value[key], str) for key in value if key.lower() in ("text", "story")
    )
