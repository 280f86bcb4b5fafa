"""What can go wrong in the client. Every message says what, where, and the remedy."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class ClientError(Exception):
    """Base of the client's errors; the command line prints it and ends with code 2."""


class InputError(ClientError):
    """A file or an option that the caller has to correct."""


class JournalError(ClientError):
    """The journal belongs to another run, or another process is using it."""


class RefusedError(ClientError):
    """The server will never accept this request (4xx): asking again is useless."""


class ServerGoneError(ClientError):
    """The server gave no answer for as long as the caller was ready to wait."""


@dataclass(eq=False)
class TransientError(ClientError):
    """A failure worth another try.

    `retry_after` is the server's own wish in seconds. `counts` says whether the try is held
    against the rows it carried; a server that is busy or still loading is not their fault.
    `overloaded` says that the server had too much to do: it should be asked less at a time.
    `died` says that the server's engine died meanwhile, perhaps of one of the rows; `lost` that
    the connection was cut, which may mean the same.
    """

    message: str
    retry_after: float | None = None
    counts: bool = True
    overloaded: bool = False
    died: bool = False
    lost: bool = False

    def __str__(self) -> str:
        return self.message


def ends_with_code(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A main function that prints a ClientError and ends with 2, and with 130 at an interrupt."""

    @wraps(main)
    def ending(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except ClientError as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130

    return ending
