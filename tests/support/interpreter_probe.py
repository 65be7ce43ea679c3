"""Write to probe.json what a script can see of its process and of its interpreter.

The file has one entry for each thing to see, by name. Before its first import of torch, a script
sees the first part; after it, the second.
"""
# ruff: noqa
# mypy: ignore-errors

import atexit
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import warnings


class Saved:
    """A class of ``__main__``."""


def streams():
    seen = {}
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        assert stream is getattr(sys, f"__{name}__")
        details = (stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
        layers = (stream.mode, stream.name, type(stream.buffer).__name__, stream.buffer.name)
        seen[name] = [*details, *layers, stream.isatty(), stream.fileno()]
    seen["reads"] = sys.stdin.read()
    return seen


def signals():
    seen = {}
    for number in sorted(signal.valid_signals()):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            handler = signal.getsignal(number)
            seen[int(number)] = getattr(handler, "__name__", str(handler))
    blocked = sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    return {"handlers": seen, "blocked": blocked, "ignored": kernel_signals()}


def kernel_signals():
    lines = open("/proc/self/status").read().splitlines()
    return [line for line in lines if line.startswith(("SigIgn", "SigBlk", "SigCgt"))]


def limits():
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def main_module():
    main = sys.modules["__main__"]
    assert vars(main) is globals()
    seen = {name: repr(value) for name, value in vars(main).items() if name.startswith("__")}
    seen["__loader__"] = type(main.__loader__).__name__
    seen["names"] = list(vars(main))[:11]
    return seen


def interpreter():
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv[1:],
        "path": sys.path,
        "flags": [getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"][:24],
        "warnoptions": sys.warnoptions,
        "executable": sys.executable,
        "prefix": (sys.prefix, sys.exec_prefix, sys.base_prefix),
        "dont_write_bytecode": sys.dont_write_bytecode,
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "tracing": (repr(sys.gettrace()), repr(sys.getprofile())),
        "hooks": [
            getattr(sys, n) is getattr(sys, f"__{n}__")
            for n in ("excepthook", "displayhook", "unraisablehook", "breakpointhook")
        ],
        "last": [name for name in dir(sys) if name.startswith("last_")],
        "meta_path": [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path],
        "path_hooks": len(sys.path_hooks),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks)),
        "frozen": gc.get_freeze_count() > 0,
        "filters": [repr(entry) for entry in warnings.filters],
        "thread hook": threading.excepthook is threading.__excepthook__,
        "threads": [(t.name, t.daemon, type(t).__name__) for t in threading.enumerate()],
        "main thread": threading.current_thread() is threading.main_thread(),
        "native": threading.get_native_id() == os.getpid(),
        "trace": [repr(threading.gettrace()), repr(threading.getprofile())]
        if hasattr(threading, "gettrace")
        else [],
        "faulthandler": __import__("faulthandler").is_enabled(),
        "tracemalloc": __import__("tracemalloc").is_tracing(),
        "locale": __import__("locale").setlocale(0),
        "fs": (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()),
        "stack size": threading.stack_size(),
        "int digits": sys.get_int_max_str_digits(),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "tz": time.tzname,
        "hash": hash("a") if os.environ.get("PYTHONHASHSEED") else None,
    }


def process():
    umask = os.umask(0)
    os.umask(umask)
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    return {
        "cwd": os.path.basename(os.getcwd()),
        "umask": umask,
        "files": [fd for fd in fds if fd < 100],
        "more files": [os.readlink(f"/proc/self/fd/{fd}") for fd in fds if fd >= 100],
        "stdin": os.readlink("/proc/self/fd/0"),
        "limits": limits(),
        "nice": os.nice(0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "leader": (os.getpid() == os.getpgrp(), os.getpid() == os.getsid(0)),
        "ids": (os.getuid(), os.getgid(), os.getgroups()),
        "threads": len(os.listdir("/proc/self/task")),
        "timers": signal.getitimer(signal.ITIMER_REAL),
        "comm": open("/proc/self/comm").read(),
        "command": open("/proc/self/cmdline").read().split("\0")[1:-1],
    }


def libraries():
    import concurrent.futures
    import decimal
    import inspect
    import logging
    import multiprocessing
    import pickle
    import random
    import socket
    import tempfile
    from dataclasses import dataclass

    @dataclass
    class Point:
        x: int = 1

    root = logging.getLogger()
    return {
        "logging": (
            root.level,
            [repr(h) for h in root.handlers],
            root.filters,
            logging.root.manager.disable,
            logging.getLoggerClass().__name__,
            logging.lastResort.level,
            logging.raiseExceptions,
        ),
        "loggers": sorted({name.partition(".")[0] for name in root.manager.loggerDict}),
        "levels": sorted(str(name) for name in logging._levelToName.items()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "process": (
            multiprocessing.current_process().name,
            multiprocessing.parent_process(),
            len(multiprocessing.active_children()),
        ),
        "folder": os.path.basename(multiprocessing.process.ORIGINAL_DIR),
        "pickle": pickle.loads(pickle.dumps(Saved())).__class__ is Saved,
        "pickled as": Saved.__module__,
        "source": inspect.getsource(Saved),
        "file": inspect.getsourcefile(Saved),
        "dataclass": repr(Point()),
        "decimal": str(decimal.getcontext()),
        "socket timeout": socket.getdefaulttimeout(),
        "temporary": tempfile.gettempdir(),
        "random": isinstance(random.random(), float),
        "workers": concurrent.futures.ThreadPoolExecutor(2).submit(os.getpid).result()
        == os.getpid(),
        "exit handlers": atexit._ncallbacks(),
    }


def of_torch():
    import numpy
    import torch
    import torch.distributed as dist

    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "seed": torch.initial_seed(),
        "drawn": torch.rand(3).tolist(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "grad": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_anomaly_enabled(),
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warn always": torch.is_warn_always_enabled(),
        "initialised": dist.is_initialized(),
        "debug": str(dist.get_debug_level()),
        "elastic": dist.is_torchelastic_launched(),
        "errors": numpy.geterr(),
        "print": str(torch._tensor_str.PRINT_OPTS),
        "filters": [repr(entry) for entry in warnings.filters],
        "exit handlers": atexit._ncallbacks(),
        "loggers": sorted(
            {n.partition(".")[0] for n in __import__("logging").root.manager.loggerDict}
        ),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "torch modules": sorted(name for name in sys.modules if name.startswith("torch.")),
        "start method": torch.multiprocessing.get_start_method(allow_none=True),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
    }


if __name__ == "__main__":
    seen = {
        "streams": streams(),
        "signals": signals(),
        "main": main_module(),
        "interpreter": interpreter(),
        "process": process(),
        "environment": dict(os.environ),
        "libraries": libraries(),
        "torch": of_torch(),
    }
    with open("probe.json", "w") as file:
        json.dump(seen, file, indent=1, default=str)
