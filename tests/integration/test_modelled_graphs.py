"""CUDA graphs on modelled GPUs: the times of replays by arithmetic, memory, values, errors."""

from typing import Any

import pytest

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.figures import figures_of

H100 = figures_of(modelled_gpu("H100"), 2)
EAGER_NS, GRAPH_NS = 3800, 3400  # between the beginnings of short kernels
TIMED = """
from testbed.workers.gpu.device_library import device_library
busy_ns = device_library().testbed_busy_ns

def busy(work):
    before = busy_ns(0)
    work()
    torch.cuda.synchronize()
    return busy_ns(0) - before
"""


def test_a_replay_takes_the_time_of_its_kernels(on_gpus: Any) -> None:
    """A thousand short kernels begin 3.4 us apart, not 3.8 us; branches run side by side."""
    result, _ = on_gpus(
        TIMED
        + """
x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
small = torch.ones(8, device="cuda")
other = torch.cuda.Stream()

def work():
    x @ x
    for _ in range(1000):
        small.add_(small)
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x @ x
    x @ x
    torch.cuda.current_stream().wait_stream(other)

work()
eager = busy(work)
graph = torch.cuda.CUDAGraph()

def capture():
    with torch.cuda.graph(graph):
        work()

captured = busy(capture)
replayed = busy(graph.replay)
print(json.dumps([eager, captured, replayed, ms(graph.replay),
                  ms(lambda: [graph.replay() for _ in range(5)])]))
"""
    )
    eager, captured, replayed, one_ms, five_ms = result
    product_ns = round(2 * 8192**3 / H100.flops_per_ns[3])
    assert eager == 3 * product_ns + 1000 * EAGER_NS
    assert captured == 0
    assert replayed == 3 * product_ns + 1000 * GRAPH_NS
    critical_ms = (2 * product_ns + 1000 * GRAPH_NS) / 1e6
    # launching on the real clock takes less than 0.5 ms on a busy machine
    assert one_ms == pytest.approx(critical_ms, abs=0.5)
    assert five_ms == pytest.approx(5 * critical_ms, abs=0.5)


def test_graphed_callables(on_gpus: Any) -> None:
    """Forward and backward are graphs; kernels outside of them are not."""
    result, _ = on_gpus(
        TIMED
        + """
model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)]).cuda()
sample = torch.randn(8, 64, device="cuda", requires_grad=True)
kernels = device_library().testbed_kernels

def count(work):
    before, products = kernels(0), flops()
    work()
    return [kernels(0) - before, flops() - products]

def flops():
    return device_library().testbed_products()

def forward_and_backward(run):
    run(torch.ones(8, 64, device="cuda", requires_grad=True)).sum().backward()

forward_and_backward(model)  # later ones add to gradients
def measure(run):
    return [count(lambda: forward_and_backward(run)), busy(lambda: forward_and_backward(run))]

forward_and_backward(model)  # later ones add to gradients
eager = measure(model)
graphed = torch.cuda.make_graphed_callables(model, (sample,))
print(json.dumps([eager, measure(graphed), list(graphed(sample).shape)]))
"""
    )
    (eager, eager_ns), (graphs, graphs_ns), shape = result
    assert shape == [8, 64]
    assert graphs[1] == eager[1]  # the same products
    assert graphs[0] == eager[0] + 2  # copies of the input and of the output's gradient
    assert eager_ns == eager[0] * EAGER_NS
    inside = 20 + 3 * 20  # products forward; two products and a sum of each layer backward
    assert graphs_ns == graphs[0] * EAGER_NS - inside * (EAGER_NS - GRAPH_NS)


def test_memory_and_values(on_gpus: Any) -> None:
    """What a graph has used stays with it until the graph is reset."""
    result, _ = on_gpus(
        """
        lengths = torch.tensor([3, 1, 2], device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            large = torch.empty(2**28, device="cuda")
            large.add_(1)
            del large
            longer = lengths + 1
            lengths.add_(1)
        torch.cuda.empty_cache()
        figures = [torch.cuda.memory_allocated(), torch.cuda.memory_reserved() // 2**30]
        again = torch.cuda.CUDAGraph()
        with torch.cuda.graph(again, pool=graph.pool()):
            torch.empty(2**28, device="cuda").add_(1)
        torch.cuda.empty_cache()
        figures.append(torch.cuda.memory_reserved() // 2**30)
        lengths.copy_(torch.tensor([3, 1, 2]))
        known = lengths.tolist()
        graph.replay()
        unknown = [longer.tolist(), lengths.tolist()]
        graph.reset()
        again.reset()
        torch.cuda.empty_cache()
        figures.append(torch.cuda.memory_reserved() // 2**30)
        print(json.dumps([figures, known, unknown]))
        """
    )
    figures, known, unknown = result
    assert figures == [2 * 512, 1, 1, 0]
    assert known == [3, 1, 2]
    assert unknown == [[0, 0, 0], [0, 0, 0]]  # a capture computes nothing


def test_errors_of_captures(on_gpus: Any) -> None:
    result, _ = on_gpus(
        """
        import warnings
        warnings.simplefilter("ignore")
        x = torch.ones(8, device="cuda")
        other = torch.cuda.Stream()
        recorded = torch.cuda.Event()
        recorded.record()

        def branch():
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                x + x

        def ask():
            event = torch.cuda.Event()
            event.record()
            event.query()

        def attempt(work):
            try:
                work()
            except (RuntimeError, torch.AcceleratorError) as error:
                return [str(error), getattr(error, "error_code", 0)]

        def capture(work):
            found = []
            def body():
                with torch.cuda.graph(torch.cuda.CUDAGraph()):
                    found.append(attempt(work))
            return [attempt(body), found[0]]

        works = [lambda: x.sum().item(), torch.cuda.synchronize, lambda: x.cpu(),
                 lambda: torch.ones(3).cuda(), lambda: torch.nonzero(x),
                 torch.cuda.current_stream().synchronize, branch, ask,
                 lambda: torch.cuda.current_stream().wait_event(recorded)]
        graph = torch.cuda.CUDAGraph()
        unused = [attempt(graph.replay), attempt(graph.pool), attempt(graph.capture_begin)]
        print(json.dumps([[capture(work) for work in works], unused,
                          torch.cuda.is_current_stream_capturing()]))
        """
    )
    errors, unused, is_capturing = result
    waits = ["CUDA error: operation not permitted when stream is capturing", 900]
    invalid = ["CUDA error: operation failed due to a previous error during capture", 901]
    assert errors[:5] == [[invalid, waits]] * 5
    assert errors[5] == [None, None]  # the default stream is not captured
    assert errors[6] == [["CUDA error: capturing stream has unjoined work", 904], None]
    event = "CUDA error: operation not permitted on an event last recorded in a capturing stream"
    assert errors[7] == [invalid, [event, 907]]
    isolation = "CUDA error: dependency created on uncaptured work in another stream"
    assert errors[8] == [invalid, [isolation, 905]]
    assert not is_capturing
    assert unused[0][0] == "Called CUDAGraph::replay without a preceding successful capture."
    assert unused[1][0] == "Called CUDAGraph::pool() without a preceding successful capture."
    assert unused[2][0].startswith("CUDA graphs must be captured on a non-default stream.")
