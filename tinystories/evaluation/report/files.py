"""The files of a report. Files that this package did not write are never replaced; this is checked before any work."""

import json
from collections.abc import Sequence
from pathlib import Path

from ...runs.run_folder import is_run_folder
from ...utils.errors import UserError
from ...utils.paths import output_folder, write_atomically
from .names import GENERATOR, HTML, JSON


DEFAULT_FOLDER = "evaluation"


def report_folder(out: str | Path | None, models: Sequence[str | Path]) -> Path:
    """The folder for a report on `models`: `out`, by default the run folder of a single run, otherwise `evaluation`.

    The folder is not created yet.

    Raises:
        UserError: if the folder is not writable, or has a `report.json` or `report.html` that is not a report of ours.
    """
    if out is None:
        out = models[0] if len(models) == 1 and is_run_folder(models[0]) else DEFAULT_FOLDER
    folder = output_folder(out)
    for path in (folder / JSON, folder / HTML):
        if path.exists() and not _is_ours(path):
            raise UserError(f"{path} was not written by `tinystories evaluate`: choose another folder with --out.")
    return folder


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    text = path.read_text("utf-8", errors="replace")
    if path.name == HTML:
        return f'<meta name="generator" content="{GENERATOR}"' in text[:1000]
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and {"format", "tinystories_version", "models"} <= content.keys()


def write_report(report: dict, folder: Path) -> None:
    """Write `report.json` and `report.html`, each atomically."""
    from .page import html_report  # imports matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    for name, content in ((JSON, text), (HTML, html_report(report))):
        write_atomically(folder / name, content)
