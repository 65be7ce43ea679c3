"""python -m testbed: the command line, which can be interrupted while it is being imported."""

import gc
import os
import signal
import sys

INTERRUPTED = 130  # exit status


def main() -> None:
    """Run the program `testbed`."""
    previous = signal.getsignal(signal.SIGINT)
    # A shell has programs in the background ignore SIGINT; that stays.
    if previous is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_at_once)
    signal.signal(signal.SIGTERM, _exit_at_once)
    gc.disable()  # everything that is imported stays
    from testbed.cli.main import main as run  # noqa: PLC0415 (takes half a second)

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, previous)
    try:
        run()
    finally:
        # With -m, Python 3.11 ends itself by SIGINT, whatever its status was to be, once a
        # KeyboardInterrupt has left code that was run from a string, as a dataclass's methods are,
        # handled or not. The next string clears that.
        exec("")
        gc.freeze()  # the interpreter's end would look through all objects, for 0.2 s


def _exit_at_once(number: int, frame: object) -> None:
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # nothing has begun


if __name__ == "__main__":
    main()
