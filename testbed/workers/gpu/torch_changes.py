"""Changes of torch outside of torch.cuda that modelled GPUs need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from testbed.workers.gpu.cuda_functions import CUDA_VERSION
from testbed.workers.gpu.device_library import device_library
from testbed.workers.gpu.steps import WATCH
from testbed.workers.gpu.values import watch_values

CHECKED = {"torch": ("2.13",)}
OBSERVER = "testbed.workers.observer"


def apply(torch: ModuleType) -> None:
    """Change torch once it is imported."""
    torch.version.cuda = CUDA_VERSION
    torch.compile = _without_compiling()  # type: ignore[attr-defined]
    torch.UntypedStorage.resize_ = _resizing(torch.UntypedStorage.resize_)
    torch.UntypedStorage.__new__ = _making_storages(torch)
    torch._tensor_str._tensor_str = _printing(torch._tensor_str._tensor_str)
    watch_values(_report_decision)
    WATCH.start()


def _say(text: str) -> None:
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def _report_decision(file: str, line: int) -> None:
    _say(
        f"warning: {file}, line {line} decides by the value of a modelled tensor, which is always "
        "0: the script may take another path than on GPUs"
    )
    observer: Any = sys.modules.get(OBSERVER)
    if observer is not None:
        observer.report_decision(file, line)


def _without_compiling() -> Callable[..., Any]:
    """Return a function in place of `torch.compile`, which leaves code as it is."""
    said: list[bool] = []

    def compile(model: Any = None, **_options: Any) -> Any:  # torch's name
        if not said:
            said.append(True)
            _say("torch.compile: the modelled GPU runs the code without compiling it")

        if model is None:
            return lambda later: later

        return model

    return compile


def _resizing(resize: Callable[..., Any]) -> Callable[..., Any]:
    """Return `UntypedStorage.resize_` that also knows the storages of modelled GPUs."""

    def resized(storage: Any, size: int) -> Any:
        if storage.device.type != "cuda":
            return resize(storage, size)

        device_library().testbed_resize_storage(storage._cdata, int(size))
        return storage

    return resized


def _making_storages(torch: ModuleType) -> Any:
    """Return `UntypedStorage.__new__` that also makes storages on modelled GPUs."""
    make = torch.UntypedStorage.__new__

    def made(storage_class: Any, *arguments: Any, device: Any = None, **options: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            if device is not None:
                options["device"] = device
            return make(storage_class, *arguments, **options)

        size = arguments[0] if arguments else 0
        return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()

    return staticmethod(made)


def _printing(to_text: Callable[..., str]) -> Callable[..., str]:
    """Return torch's function for the numbers of a printed tensor, with zeros for modelled ones."""

    def text(tensor: Any, indent: int) -> str:
        if tensor.is_cuda:
            tensor = tensor.detach().cpu()

        return to_text(tensor, indent)

    return text
