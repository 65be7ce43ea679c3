"""Entry point of `python -m testbed`, which Ctrl-C can interrupt even during imports."""

import codecs
import gc
import locale
import os
import signal
import sys

INTERRUPTED = 130  # exit status


def main() -> None:
    """Run the program `testbed`."""
    _open_closed_streams()
    _use_utf8()
    previous = signal.getsignal(signal.SIGINT)
    # Shells make background programs ignore SIGINT; keep that setting.
    if previous is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_at_once)
    signal.signal(signal.SIGTERM, _exit_at_once)
    gc.disable()  # imported modules are never freed
    from testbed.cli.main import main as run  # noqa: PLC0415 (takes half a second)

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, previous)
    try:
        run()
    finally:
        # With -m, Python 3.11 ends by SIGINT instead of returning its exit status once a
        # KeyboardInterrupt, handled or not, has left code compiled from a string, such as a
        # dataclass's methods. Running another string clears that state.
        exec("")
        gc.freeze()  # otherwise a collection at exit scans all objects for 0.2 s


def _use_utf8() -> None:
    """Begin again in Python's UTF-8 mode if the locale has another encoding for files."""
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    if sys.flags.utf8_mode or sys.flags.ignore_environment or encoding == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _open_closed_streams() -> None:
    """Open standard streams that the caller has closed, else files would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            if nothing != number:
                os.close(nothing)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _exit_at_once(number: int, frame: object) -> None:
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # no run has started


if __name__ == "__main__":
    main()
