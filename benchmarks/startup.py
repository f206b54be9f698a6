"""Start-up time of imports and commands, each in a separate process.

    python benchmarks/startup.py

`import modeling_tinyllama` (with registration in the Auto classes) is compared with the imports of torch and
transformers, and `tinystories --help` and errors of the user with an empty process. The processes alternate for
several rounds; a first round, which fills the file cache of the system, is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from figures import describe_machine, median_ratio, save_json

from tinystories.utils.console import print_any_character


BASE = "LlamaForCausalLM"
RECIPE = "quickstart"
PYTHON = {
    "empty process": "pass",
    "torch": "import torch",
    "AutoModelForCausalLM": "from transformers import AutoModelForCausalLM",
    BASE: "from transformers import LlamaForCausalLM",
    "modeling_tinyllama": "import modeling_tinyllama",
    "TinyLlamaForCausalLM": "from modeling_tinyllama import TinyLlamaForCausalLM",
}
COMMANDS = {
    "tinystories --help": ["--help"],
    "a mistyped setting": ["train", RECIPE, "--learning_rat", "1"],
    "no such recipe": ["train", "none.yaml"],
    "no such corpus": ["tokenizer", "none.txt", "tokenizer-of-none"],
    "no such run": ["generate", "runs/none", "Once upon a time"],
}


def seconds(code: str, arguments: list[str], status: int) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    took = time.perf_counter() - began
    if done.returncode != status:
        sys.exit(f"{code} {arguments}: exit status {done.returncode}\n{done.stderr.decode()}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each process (default: 5)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()
    cli = "import sys; from tinystories.cli import main; sys.exit(main(sys.argv[1:]))"
    runs = {name: (code, [], 0) for name, code in PYTHON.items()}
    runs |= {name: (cli, arguments, 0 if "--help" in arguments else 2) for name, arguments in COMMANDS.items()}
    os.environ["HF_HOME"] = tempfile.mkdtemp()  # the user's token and settings must have no effect

    times = {name: [] for name in runs}
    for round_number in range(options.rounds + 1):
        for name in list(runs) if round_number % 2 == 0 else reversed(list(runs)):
            took = seconds(*runs[name])
            if round_number:
                times[name].append(took)
                print(f"round {round_number}  {name:22} {took:6.2f} s", flush=True)

    print(f"\n{describe_machine()}")
    print(f"{options.rounds} rounds, seconds per process\n")
    print(f"{'process':22} {'median':>7} {'min':>7} {'max':>7}  x {BASE}")
    results = {}
    for name, values in times.items():
        ratio = median_ratio(values, times[BASE])
        print(f"{name:22} {statistics.median(values):7.2f} {min(values):7.2f} {max(values):7.2f}  {ratio:.2f}")
        results[name] = {"seconds": values, "ratio": ratio}
    save_json(options.json, processes=results)


if __name__ == "__main__":
    print_any_character()
    main()
