"""`python -m service --model DIR`: serve a model directory."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.util import get_temp_dir
from shutil import rmtree
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import CliApp

from service.engine.garbage_collection import raise_gc_threshold
from service.http.access_log import configure_logging
from service.pipes import run
from service.settings import Settings

raise_gc_threshold()  # until the last is imported: vllm_engine.py


def main() -> int:
    """Read the settings, serve until SIGTERM; the exit code says why it ended."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for detail in error.errors():
            print(f"error: {_told(detail)}", file=sys.stderr)
        return 2
    configure_logging(settings)

    from service.app import create_app
    from service.engine.vllm_engine import VLLMEngine
    from service.http.server import Server

    engine = VLLMEngine(settings)
    if settings.node_rank:
        engine.follow()
        return 1  # node 0 has gone
    server = Server(create_app(engine, settings), settings)
    server.run()
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):  # as Python's own exit would: the fork server's socket is there
        rmtree(get_temp_dir())
    # All is shut down by now. Threads inside vLLM would hold the interpreter's own exit for up
    # to a minute, after a dead engine or in the middle of loading.
    os._exit(server.exit_code)


def _told(detail: Mapping[str, Any]) -> str:
    """One of pydantic's errors; one about several settings has no flag's name."""
    flags = [f"--{'-'.join(map(str, detail['loc']))}".replace("_", "-")] if detail["loc"] else []
    return ": ".join([*flags, detail["msg"].removeprefix("Value error, ")])


def command() -> NoReturn:
    """`mergeline-serve`, and `python -m service`."""
    run(main)


if __name__ == "__main__":
    command()
