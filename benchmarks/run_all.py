"""Every benchmark that this machine allows, one after the other, into `benchmarks/RESULTS.md`: `make bench`.

    python benchmarks/run_all.py --corpus my_stories/
    python benchmarks/run_all.py --only training,decoding

Each script measures against its peers alternately in one process or one run, repeats, and prints a report that begins
with the machine; that report is what is kept, with the command that printed it. A report that is already in the file
stays until its benchmark is run again. Peers that are not installed are left out, here or by the scripts themselves.
"""

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

from figures import describe_machine

from tinystories.utils.console import print_any_character


HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
# By name: what is measured, the command, and an optional package that it needs. `CORPUS` is what --corpus names.
BENCHMARKS = {
    "training": (
        "Training",
        "benchmarks/training.py --corpus CORPUS --rows 4 --stories 16 --steps 15 "
        "--variants ours,ours-joined,ours-masked,stock",
        None,
    ),
    "decoding": ("Decoding on a CPU", "benchmarks/decoding.py", None),
    "engines": ("One story by llama.cpp", "benchmarks/engines.py", "xllamacpp"),
    "serving": (
        "Serving",
        "benchmarks/serving.py --untrained 24m --seconds 15 --requests 0 --no-attack --peers",
        "fastapi",
    ),
    "data": ("From text to rows, and training a tokenizer", "benchmarks/data.py --corpus CORPUS", None),
    "startup": ("Start-up", "benchmarks/startup.py", None),
    "race": ("What five minutes teach", "benchmarks/race.py --corpus CORPUS --minutes 5", None),
}
HEADER = """# Results

Written by `make bench` (`python benchmarks/run_all.py`). Each block is what the command above it printed, on the
machine that its first line names. Ratios are of runs that alternated with each other; absolute figures drift from
machine to machine, and from hour to hour on a shared one.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="stories to train and measure on")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(BENCHMARKS)} (all)")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    reports = read_reports(RESULTS.read_text("utf-8") if RESULTS.exists() else "")
    failed = []
    for name in names:
        title, command, package = BENCHMARKS[name]
        if package and importlib.util.find_spec(package) is None:
            print(f"\n== {title}: left out, because {package} is not installed", flush=True)
            continue
        command = command.replace("CORPUS", shlex.quote(options.corpus))
        print(f"\n== {title}: python {command}", flush=True)
        report = run(command)
        if report is None:
            failed.append(name)
            continue
        reports[title] = f"`python {command}`\n\n```\n{report}\n```\n"
        RESULTS.write_text(write_reports(reports), "utf-8")
    print(f"\n{RESULTS.relative_to(HERE.parent)} holds what was measured.")
    if failed:
        sys.exit(f"These failed: {', '.join(failed)}.")


def run(command: str) -> str | None:
    """What the script prints from the line on that names the machine, or None where it failed; all of it is shown."""
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)], cwd=HERE.parent, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    begins = [number for number, line in enumerate(lines) if line.startswith(describe_machine())]
    if process.wait() or not begins:
        return None
    return "\n".join(lines[begins[-1] :]).strip()


def read_reports(text: str) -> dict[str, str]:
    """By title, the reports of a `RESULTS.md`."""
    parts = re.split(r"^## (.+)\n+", text, flags=re.MULTILINE)[1:]
    return {title: report.strip() + "\n" for title, report in zip(parts[::2], parts[1::2], strict=True)}


def write_reports(reports: dict[str, str]) -> str:
    known = [title for title, *_ in BENCHMARKS.values()]
    ordered = sorted(reports, key=lambda title: known.index(title) if title in known else len(known))
    return "\n".join([HEADER, *(f"## {title}\n\n{reports[title]}" for title in ordered)])


if __name__ == "__main__":
    print_any_character()
    main()
