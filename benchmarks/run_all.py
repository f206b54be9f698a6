"""Run all CPU benchmarks and write their reports to `benchmarks/RESULTS.md` (`make bench`).

    python benchmarks/run_all.py --corpus my_stories/
    python benchmarks/run_all.py --only training,decoding

Each script alternates between this package and other software for several rounds, and prints a report that begins with
the machine. The report is written to the file with its command. The other reports in the file are kept. Benchmarks and
variants whose packages are not installed are skipped.
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
# By name: the title, the command, and an optional package that it needs. `CORPUS` stands for the option --corpus.
BENCHMARKS = {
    "training": (
        "Training",
        "benchmarks/training.py --corpus CORPUS --rows 4 --stories 16 --steps 15 "
        "--variants ours,ours-unmasked,ours-masked,stock",
        None,
    ),
    "decoding": ("Decoding on a CPU", "benchmarks/decoding.py", None),
    "speculation": ("Speculative decoding", "benchmarks/speculation.py", None),
    "engines": ("Decoding with llama.cpp", "benchmarks/engines.py", "xllamacpp"),
    "serving": (
        "Serving",
        "benchmarks/serving.py --untrained 24m --seconds 15 --requests 0 --no-attack --peers",
        "fastapi",
    ),
    "data": ("Tokenizer training and packing", "benchmarks/data.py --corpus CORPUS", None),
    "startup": ("Start-up", "benchmarks/startup.py", None),
    "race": ("Race, 5 minutes", "benchmarks/race.py --corpus CORPUS --minutes 5", None),
}
HEADER = """# Results

Written by `make bench` (`python benchmarks/run_all.py`). Each block is the output of the command above it, and begins
with the machine. Ratios compare runs that alternated; absolute speeds vary between machines, and with the load of a
shared machine.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="stories to train and measure on (default: sample)")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(BENCHMARKS)} (default: all)")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    reports = read_reports(RESULTS.read_text("utf-8") if RESULTS.exists() else "")
    failed = []
    for name in names:
        title, command, package = BENCHMARKS[name]
        if package and importlib.util.find_spec(package) is None:
            print(f"\n== {title}: skipped, because {package} is not installed", flush=True)
            continue
        command = command.replace("CORPUS", shlex.quote(options.corpus))
        print(f"\n== {title}: python {command}", flush=True)
        report = run(command)
        if report is None:
            failed.append(name)
            continue
        reports[title] = f"`python {command}`\n\n```\n{report}\n```\n"
        RESULTS.write_text(write_reports(reports), "utf-8")
    print(f"\nThe results are in {RESULTS.relative_to(HERE.parent)}.")
    if failed:
        sys.exit(f"Failed benchmarks: {', '.join(failed)}.")


def run(command: str) -> str | None:
    """Run a script, show its output, and return the part from the line with the machine on; None if it failed."""
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
    """The reports in the text of a `RESULTS.md`, by title."""
    parts = re.split(r"^## (.+)\n+", text, flags=re.MULTILINE)[1:]
    return {title: report.strip() + "\n" for title, report in zip(parts[::2], parts[1::2], strict=True)}


def write_reports(reports: dict[str, str]) -> str:
    known = [title for title, *_ in BENCHMARKS.values()]
    ordered = sorted(reports, key=lambda title: known.index(title) if title in known else len(known))
    return "\n".join([HEADER, *(f"## {title}\n\n{reports[title]}" for title in ordered)])


if __name__ == "__main__":
    print_any_character()
    main()
