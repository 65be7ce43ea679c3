"""Modelled GPUs in a new interpreter: what torch.cuda shows, times of streams, memory, values."""

from typing import Any

import pytest

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.figures import figures_of

H100 = figures_of(modelled_gpu("H100"), 2)
GIB = 2**30


def test_devices_and_memory(on_gpus: Any) -> None:
    shown, _ = on_gpus(
        """
        cuda = torch.cuda
        shown = [cuda.is_available(), cuda.device_count(), cuda.get_device_name(),
                 cuda.get_device_capability(), cuda.is_bf16_supported(), cuda.nccl.version()]
        block = torch.empty(2**30, dtype=torch.uint8, device="cuda:1")
        figures = [cuda.memory_allocated(0), cuda.memory_allocated(1), cuda.mem_get_info(1)]
        del block
        figures += [cuda.memory_allocated(1), cuda.max_memory_allocated(1)]
        try:
            torch.empty(80 * 2**30, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            figures.append(str(error))
        print(json.dumps([shown, figures]))
        """
    )
    assert shown[0] == [True, 2, H100.model.device_name, [9, 0], True, [2, 27, 3]]
    first, second, info, after, peak, error = shown[1]
    assert (first, second, after, peak) == (0, GIB, 0, GIB)
    assert info == [H100.usable_bytes - GIB, H100.memory_bytes]
    assert error.startswith("CUDA out of memory. Tried to allocate 80.00 GiB.")


def test_memory_of_a_training_step(on_gpus: Any) -> None:
    """AdamW holds parameters, gradients and two moments, all float32; steps are on the CPU."""
    allocated, _ = on_gpus(
        """
        model = nn.Linear(1024, 1024, bias=False, device="cuda")
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(4, 1024, device="cuda")).sum().backward()
        optimizer.step()
        print(json.dumps(torch.cuda.memory_allocated()))
        """
    )
    assert allocated == 4 * 4 * 1024 * 1024


def test_times_of_kernels_and_streams(on_gpus: Any) -> None:
    """A product takes its FLOPs over the rate, two streams work side by side, an event orders."""
    times, _ = on_gpus(
        """
        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        small = torch.ones(8, device="cuda")
        other = torch.cuda.Stream()
        x @ x, x + x, small + small  # the first call of an operator works its shape out

        def side_by_side():
            x @ x
            with torch.cuda.stream(other):
                x @ x
            torch.cuda.current_stream().wait_stream(other)

        def after_another():
            x @ x
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                x @ x
            torch.cuda.current_stream().wait_stream(other)

        print(json.dumps([ms(lambda: x @ x), ms(lambda: x + x), ms(lambda: small + small),
                          ms(side_by_side), ms(after_another)]))
        """
    )
    product = 2 * 8192**3 / H100.flops_per_ns[3] / 1e6
    traffic = 3 * 2 * 8192**2 / H100.bytes_per_ns / 1e6
    # one launch of the real clock lies between the records: less than 0.5 ms on a busy machine
    assert times[0] == pytest.approx(product, abs=0.5)
    assert times[1] == pytest.approx(traffic, abs=0.5)
    assert times[2] >= H100.model.kernel_ns / 1e6
    assert times[3] == pytest.approx(product, abs=0.5)
    assert times[4] == pytest.approx(2 * product, abs=0.5)


def test_waiting_for_a_device_takes_its_time(on_gpus: Any) -> None:
    waited, _ = on_gpus(
        """
        import time
        x = torch.randn(16384, 16384, device="cuda", dtype=torch.bfloat16)
        x @ x
        torch.cuda.synchronize()
        begin = time.time()
        for _ in range(20):
            y = x @ x
        launched = time.time() - begin
        y[0, 0].item()
        print(json.dumps([launched, time.time() - begin]))
        """
    )
    busy_s = 20 * 2 * 16384**3 / H100.flops_per_ns[3] / 1e9
    assert waited[0] < busy_s / 2  # the CPU runs ahead
    assert busy_s <= waited[1] < busy_s + 0.5


def test_what_a_training_script_uses(on_gpus: Any) -> None:
    """Mixed precision, scaling, compiling, pinned memory, attention, normalization, convolution."""
    result, log = on_gpus(
        """
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=True)
        model = torch.compile(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda())
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        scaler = torch.amp.GradScaler()
        for _ in range(2):
            batch = torch.randn(4, 64, 256).pin_memory().to("cuda", non_blocking=True)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(batch).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        image = torch.randn(2, 3, 32, 32, device="cuda")
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).cuda()
        network(image).sum().backward()
        state = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(state)
        tokens = torch.tensor([3, 1, 2], device="cuda")
        print(json.dumps([loss.item(), float(norm), list(network(image).shape), tokens.tolist()]))
        """
    )
    assert result == [0.0, 0.0, [2, 8, 30, 30], [3, 1, 2]]
    assert log.count("torch.compile") == 1
    assert "decides by the value" not in log  # torch's own decisions are not the script's


def test_decisions_and_refusals(on_gpus: Any) -> None:
    result, log = on_gpus(
        """
        x = torch.ones(1000, device="cuda")
        loss = x.sum().item()
        if loss < 5:
            pass
        errors = []
        for operator in (torch.nonzero, torch.unique):
            try:
                operator(x + 1)
            except NotImplementedError as error:
                errors.append(str(error))
        print(json.dumps(errors))
        """
    )
    assert "the modelled GPU cannot run aten::nonzero: " in result[0]
    assert "the modelled GPU cannot run aten::_unique2: " in result[1]
    assert "<string>, line" in log
    assert log.count("decides by the value of a modelled tensor") == 1


def test_steps_and_streams(on_gpus: Any) -> None:
    """Of a step: FLOPs with those that are repeated, tokens, and parts that add up to its time."""
    result, _ = on_gpus(
        """
        from torch.utils.checkpoint import checkpoint
        from testbed.workers.gpu.steps import WATCH
        records = []
        WATCH.write_to(records.append)

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(100, 64)
                self.layers = nn.ModuleList(
                    nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(2)])
                    for _ in range(2)
                )

            def forward(self, tokens):
                hidden = self.layers[0](self.embedding(tokens))
                return checkpoint(self.layers[1], hidden, use_reentrant=False).sum()

        model = Model().cuda()
        optimizer = torch.optim.SGD(model.parameters())
        other = torch.cuda.Stream()
        for _ in range(3):
            model(torch.zeros(4, 8, dtype=torch.int64).cuda()).backward()
            with torch.cuda.stream(other):
                torch.empty(2**28, device="cuda").zero_()
            torch.cuda.current_stream().wait_stream(other)
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        WATCH.finish()
        print(json.dumps([record.model_dump() for record in records]))
        """
    )
    _first, second, third = [record for record in result if record["kind"] == "step"]
    parts = [third[name] for name in ("busy_ns", "launch_ns", "streams_ns")]
    assert sum(parts) == third["end_ns"] - second["end_ns"]
    # half of the 1 GiB that the other stream writes, at least, is more than launching takes
    assert third["streams_ns"] > 2**30 / H100.bytes_per_ns / 2
    product = 2 * 32 * 64 * 64
    # four products forward, eight backward, and one again: a checkpoint does not need its last one
    assert third["flops"] == 13 * product
    assert third["recomputed_flops"] == product
    assert (third["optimizer_flops"], third["tokens"], third["token_ranks"]) == (0, 32, 1)
    assert third["waits"] == []
    names = {record["name"] for record in result if record["kind"] == "span"}
    assert {"embedding", "layers.0", "layers.1 (recomputed)", "layers.0 (backward)"} <= names
    assert {"optimizer", "embedding (backward)"} <= names
    assert result[-1]["kind"] == "end"
    assert result[-1]["peak_bytes"] > 2**30
