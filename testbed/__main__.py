"""python -m testbed: the command line, which can be interrupted while it is being imported."""

import gc
import os
import signal
import sys


def main() -> None:
    """The program `testbed`."""
    asked = signal.getsignal(signal.SIGINT)
    if asked is signal.default_int_handler:  # a shell lets what runs in the background ignore it
        signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    gc.disable()  # all that is imported stays
    from testbed.cli.main import main as run  # noqa: PLC0415 (it takes half a second)

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, asked)
    try:
        run()
    finally:
        # With -m, Python 3.11 ends itself by SIGINT, whatever its status was to be, once a
        # KeyboardInterrupt has left code that was run from a string, as a dataclass's methods are,
        # handled or not. The next string clears that.
        exec("")
        gc.freeze()  # the interpreter's end would look through all of it, for 0.2 s


def _leave(number: int, frame: object) -> None:
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)  # nothing has begun


if __name__ == "__main__":
    main()
