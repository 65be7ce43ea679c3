"""What frameworks use of a GPU besides tensors: storages, files, generators, NCCL's settings."""

from typing import Any

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.figures import figures_of

H100 = figures_of(modelled_gpu("H100"), 2)


def test_storages_and_copies(on_gpus: Any) -> None:
    result, _ = on_gpus(
        """
        import copy
        twin = copy.deepcopy(nn.Linear(64, 64).cuda())
        storages = [torch.UntypedStorage(12, device="cuda"), torch.UntypedStorage([1, 2, 3])]
        described = [[one.device.type, one.nbytes()] for one in storages]
        print(json.dumps([twin.weight.device.type, described, torch.cuda.memory_allocated()]))
        """
    )
    device, storages, allocated = result
    assert device == "cuda"
    assert storages == [["cuda", 12], ["cpu", 3]]
    assert allocated == 64 * 64 * 4 + 512 + 512  # blocks have 512 B


def test_checkpoints(on_gpus: Any) -> None:
    """A file has the size of the model, and loads onto each device."""
    result, _ = on_gpus(
        """
        import io
        file = io.BytesIO()
        torch.save(nn.Linear(512, 512, device="cuda").state_dict(), file)
        devices = []
        for place in (None, "cuda:1", "cpu"):
            file.seek(0)
            devices.append(str(torch.load(file, map_location=place)["weight"].device))
        print(json.dumps([len(file.getvalue()), devices]))
        """
    )
    size, devices = result
    assert 0 < size - 512 * 513 * 4 < 4096
    assert devices == ["cuda:0", "cuda:1", "cpu"]


def test_the_zeros_of_a_large_tensor_need_no_memory(on_gpus: Any) -> None:
    result, _ = on_gpus(
        """
        import resource
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        numbers = torch.empty(2**28, device="cuda").cpu()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ends = [numbers[0].item(), numbers[12345].item(), numbers[-1].item()]
        print(json.dumps([ends, numbers.numel(), after - before]))
        """
    )
    ends, elements, more_kib = result
    assert ends == [0, 0, 0]
    assert elements == 2**28
    assert more_kib < 2**28 * 4 / 1024 / 8


def test_functions_of_torch_cuda(on_gpus: Any) -> None:
    """Ranges of profilers, statistics, seeds and their states."""
    result, log = on_gpus(
        """
        with torch.cuda.nvtx.range("step"):
            torch.cuda.nvtx.mark("mark")
        torch.cuda.set_per_process_memory_fraction(0.5)
        generator = torch.Generator("cuda").manual_seed(3)
        torch.randn(3, generator=generator, device="cuda")
        states = torch.cuda.get_rng_state_all()
        with torch.random.fork_rng(devices=[0, 1]):
            torch.cuda.manual_seed_all(4)
        torch.cuda.set_rng_state_all(states)
        json.dumps(torch.ones(3, device="cuda").sum().item())
        summary = "memory summary" in torch.cuda.memory_summary()
        fraction = torch.cuda.get_per_process_memory_fraction()
        print(json.dumps([summary, fraction, len(states), generator.initial_seed()]))
        """
    )
    assert result == [True, 0.5, 2, 3]
    assert "decides by the value" not in log  # that json looks for NaN decides nothing


def test_settings_of_nccl(on_gpus: Any) -> None:
    """Timeouts and options that frameworks set on the group."""
    result, _ = on_gpus(
        """
        import datetime
        import torch.distributed as dist
        store = dist.HashStore()
        options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        options.config.max_ctas = 4
        dist.init_process_group("nccl", store=store, rank=0, world_size=1, pg_options=options)
        group = dist.distributed_c10d._get_default_group()
        timeout = datetime.timedelta(seconds=12)
        dist.distributed_c10d._set_pg_timeout(timeout, group)
        backend = group._get_backend(torch.device("cuda"))
        backend._add_ephemeral_timeout(timeout)
        other = datetime.timedelta(seconds=13)
        right = [backend._verify_work_timeout(None, one) for one in (timeout, other)]
        print(json.dumps([options.config.max_ctas, right]))
        dist.destroy_process_group()
        """
    )
    assert result == [4, [True, False]]


def test_rms_normalization(on_gpus: Any) -> None:
    """One kernel forward and two backward; numbers of two types take torch's separate kernels."""
    result, _ = on_gpus(
        """
        from testbed.workers.gpu.device_library import device_library
        library = device_library()

        def count(work):
            before = library.testbed_kernels(0), library.testbed_busy_ns(0)
            done = work()
            after = library.testbed_kernels(0), library.testbed_busy_ns(0)
            return [after[0] - before[0], after[1] - before[1]], done

        options = {"device": "cuda", "dtype": torch.bfloat16}
        norm = nn.RMSNorm(4096, **options)
        x = torch.empty(8192, 4096, requires_grad=True, **options)
        forward, y = count(lambda: norm(x))
        gradients = torch.empty(8192, 4096, **options)
        backward, (of_x, of_weight) = count(
            lambda: torch.autograd.grad(y, [x, norm.weight], gradients)
        )
        other = nn.RMSNorm(4096, device="cuda")
        mixed, _ = count(lambda: other(x))
        shapes = [list(y.shape), list(of_x.shape), list(of_weight.shape)]
        print(json.dumps([forward, backward, mixed[0], shapes]))
        """
    )
    forward, backward, mixed, shapes = result
    whole, weight, scales = 2 * 8192 * 4096, 2 * 4096, 4 * 8192
    assert shapes == [[8192, 4096], [8192, 4096], [4096]]
    assert forward == [1, round((2 * whole + weight + scales) / H100.bytes_per_ns)]
    of_input = round((3 * whole + weight + scales) / H100.bytes_per_ns)
    of_weight = round((2 * whole + weight + scales) / H100.bytes_per_ns)
    assert backward == [2, of_input + of_weight]
    assert mixed > 1
