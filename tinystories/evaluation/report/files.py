"""Where a report is written, and that nothing else is lost by it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ...runs.run_folder import is_run_folder
from ...utils.errors import UserError
from ...utils.paths import output_folder
from .page import HTML, JSON, html_report, meta_generator


DEFAULT_FOLDER = "evaluation"


def report_folder(out: str | Path | None, models: Sequence[str | Path]) -> Path:
    """Where a report of `models` goes: `out`, or else the run folder where there is one and no other model, or
    `evaluation` in the working directory. It is not made yet.

    Raises:
        UserError: where it cannot be written to, or has a file of the report's name that is no report of ours.
    """
    if out is None:
        out = models[0] if len(models) == 1 and is_run_folder(models[0]) else DEFAULT_FOLDER
    folder = output_folder(out)
    for path in (folder / JSON, folder / HTML):
        if path.exists() and not _is_ours(path):
            raise UserError(f"{path} is no report of ours and is left alone; name another folder with --out.")
    return folder


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    text = path.read_text("utf-8", errors="replace")
    if path.name == HTML:
        return meta_generator() in text[:1000]
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and {"format", "tinystories_version", "models"} <= content.keys()


def write_report(report: dict, folder: Path) -> None:
    """Write `report.json` and `report.html`, each put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    for name, content in ((JSON, text), (HTML, html_report(report))):
        partial = folder / f".{name}.part"
        partial.write_bytes(content.encode("utf-8", "replace"))
        os.replace(partial, folder / name)
