"""The end of a program whose output goes to a reader such as `head`, which may leave early."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the code of `main`; quietly with 141, as SIGPIPE would, when the reader has gone.

    SIGPIPE itself stays ignored: it would also end us for a socket whose peer has gone, and leave
    half-written files behind.
    """
    code: object
    try:
        try:
            code = main()
        except SystemExit as end:  # argparse's, after --help
            code = end.code
        for stream in (sys.stdout, sys.stderr):
            print(end="", file=stream, flush=True)
    except BrokenPipeError:
        for number in (1, 2):  # what is still buffered would fail again in the interpreter's end
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        code = 128 + signal.SIGPIPE
    sys.exit(code)
