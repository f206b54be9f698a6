"""`tinystories serve`: an HTTP server with an OpenAI-compatible API and a demo page."""

import argparse

from ..runs.builtin_model import model_path
from ..utils.errors import UserError, install_command
from ..utils.paths import expand_user
from .arguments import LARGEST_INT, number


LARGEST_BATCH = 1024  # each completion has a cache of its own
YEAR = 365 * 24 * 60 * 60
PACKAGES = ("fastapi", "h11", "limits", "pydantic", "starlette", "uvicorn")


EXAMPLES = """
tinystories serve
tinystories serve runs/quickstart --port 8000 --dtype int8
tinystories serve you/your-model --host 0.0.0.0 --rate-limit 10/minute
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve a model: a demo page at /, POST /generate, and /v1/completions and /v1/chat/completions of OpenAI's "
        "API. The environment variables CHECKPOINT_PATH, TOKENIZER_PATH, DEVICE and PORT set the defaults of RUN, "
        "--tokenizer, --device and --port."
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="RUN",
        type=model_path,
        help="run folder, model id on the Hub, or builtin (default: CHECKPOINT_PATH, or builtin)",
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", type=expand_user, help="tokenizer to use (default: the model's)"
    )
    parser.add_argument("--device", help="device, such as cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument("--dtype", help="int8 for faster decoding on a CPU (default: as saved)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1; 0.0.0.0 for all interfaces)")
    parser.add_argument(
        "--port", type=number(int, 0, 65535), help="port to listen on (default: 7779; 0 for any free port)"
    )
    parser.add_argument(
        "--max-batch", type=number(int, 1, LARGEST_BATCH), help="completions generated concurrently (default: 32)"
    )
    parser.add_argument(
        "--max-queue", type=number(int, 0, LARGEST_INT), help="completions that may wait in the queue (default: 64)"
    )
    parser.add_argument(
        "--time-limit",
        type=number(float, 0.001, YEAR),
        metavar="SECONDS",
        help="time limit of a request, including its time in the queue (default: 120)",
    )
    parser.add_argument(
        "--rate-limit", metavar="LIMIT", help="requests per client, such as 60/minute, or none (default: 60/minute)"
    )
    parser.add_argument(
        "--drain-time",
        type=number(float, 0, YEAR),
        metavar="SECONDS",
        help="how long running completions may continue after SIGTERM (default: 30)",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        dest="trusted_proxies",
        metavar="ADDRESS",
        help="trust X-Forwarded-For from this address or network; may be repeated (default: none)",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        dest="cors_origins",
        metavar="ORIGIN",
        help="allow cross-origin requests from this origin, such as https://example.org; may be repeated "
        "(default: none)",
    )


def run(options: argparse.Namespace) -> None:
    try:
        from ..serving.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise UserError(
            f"The server needs a package that is not installed ({error.name}): {install_command('serve')}."
        ) from None
    from ..serving.settings import read_settings

    serve(read_settings(vars(options)))
