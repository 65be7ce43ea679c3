"""Columns and types of the Parquet tables of a run folder.

ops.parquet: a row per operation and rank. `start_ns` and `end_ns` are Unix ns on the run's clock.
`phase` is ``warmup`` or ``measure``, or ``train`` or ``script`` where all calls of
torch.distributed are recorded; there a send and a receive are separate rows, and `iteration` is the
number of the operation in its process group. `wrong` counts elements with a wrong value, -1: not
checked. `root` and `group_rank` are numbers of ranks within the process group; `parts` holds the
bytes of each rank's part where the parts differ. `peer` is the other rank's number in the process
group of a send or receive, null for a receive from anyone.

links.parquet: samples of each direction of a WAN link. Counters are cumulative since the link was
built; `backlog_bytes` is the current content of the queue.

train.parquet: a row per training step and rank. `compute_ns` is modelled computation, `late_ns` is
computation beyond the modelled time; `loss` is null where the rank computes no loss; `computed_ns`
has the start and end, in turn, of each stretch of modelled computation.

gpu.parquet: a row per step of training and rank, on modelled GPUs. The stream of the optimizer ran
kernels for `busy_ns`, waited for operations for `exposed_ns` and for kernels of other streams for
`streams_ns`, and had nothing to run for `launch_ns`; together from `start_ns` to `end_ns`. Of the
`flops`, `recomputed_flops` are due to activation checkpointing and `optimizer_flops` to the
optimizer. `token_ranks` ranks read the same `tokens`. `peak_bytes` is the most memory of tensors so
far.

flows.parquet, throughput.parquet and flow_ops.parquet come from packet captures (docs/captures.md
describes the columns).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

Schema = Mapping[str, type[pl.DataType] | pl.DataType]

OPS: Schema = {
    "op": pl.String,
    "bytes": pl.Int64,
    "group_size": pl.Int32,
    "iteration": pl.Int32,
    "phase": pl.String,
    "rank": pl.Int32,
    "host": pl.String,
    "dc": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "dtype": pl.String,
    "wrong": pl.Int64,
    "group": pl.String,
    "algorithm": pl.String,
    "process_group": pl.String,
    "group_rank": pl.Int32,
    "root": pl.Int32,
    "parts": pl.List(pl.Int64),
    "peer": pl.Int32,
    "tag": pl.Int32,
    "case": pl.Int32,
}

# The use of TCP of an operation on a rank: `testbed.runfolder.records.TcpUse`; in no file.
TCP: Schema = {
    "op": pl.String,
    "group_size": pl.Int32,
    "iteration": pl.Int32,
    "phase": pl.String,
    "process_group": pl.String,
    "rank": pl.Int32,
    "start_ns": pl.Int64,
    "peer": pl.String,
    "bytes": pl.Int64,
    "rtt_us": pl.Int64,
    "segment_bytes": pl.Int64,
    "window_before": pl.Int64,
    "window_after": pl.Int64,
    "threshold": pl.Int64,
    "idle_us": pl.Int64,
    "timeout_us": pl.Int64,
    "receiver_us": pl.Int64,
    "buffer_us": pl.Int64,
    "busy_us": pl.Int64,
    "retransmissions": pl.Int64,
    "ever_retransmitted": pl.Boolean,
}

LINKS: Schema = {
    "time_ns": pl.Int64,
    "source": pl.String,
    "target": pl.String,
    "link": pl.String,
    "bytes": pl.Int64,
    "packets": pl.Int64,
    "drops": pl.Int64,
    "backlog_bytes": pl.Int64,
}

TRAIN: Schema = {
    "step": pl.Int32,
    "rank": pl.Int32,
    "host": pl.String,
    "dc": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "compute_ns": pl.Int64,
    "late_ns": pl.Int64,
    "loss": pl.Float64,
    "tokens": pl.Int64,
    "computed_ns": pl.List(pl.Int64),
}

GPU: Schema = {
    "step": pl.Int32,
    "rank": pl.Int32,
    "host": pl.String,
    "dc": pl.String,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "busy_ns": pl.Int64,
    "exposed_ns": pl.Int64,
    "streams_ns": pl.Int64,
    "launch_ns": pl.Int64,
    "flops": pl.Float64,
    "recomputed_flops": pl.Float64,
    "optimizer_flops": pl.Float64,
    "tokens": pl.Int64,
    "token_ranks": pl.Int32,
    "peak_bytes": pl.Int64,
}

FLOWS: Schema = {
    "flow": pl.Int32,
    "link": pl.String,
    "from_dc": pl.String,
    "to_dc": pl.String,
    "src_host": pl.String,
    "dst_host": pl.String,
    "src_rank": pl.Int32,
    "dst_rank": pl.Int32,
    "src_address": pl.String,
    "dst_address": pl.String,
    "src_port": pl.Int32,
    "dst_port": pl.Int32,
    "first_ns": pl.Int64,
    "last_ns": pl.Int64,
    "records": pl.Int64,
    "packets": pl.Int64,
    "payload_bytes": pl.Int64,
    "wire_bytes": pl.Int64,
    "retransmissions": pl.Int64,
    "retransmitted_bytes": pl.Int64,
    "spurious_retransmissions": pl.Int64,
    "out_of_order": pl.Int64,
    "unseen_bytes": pl.Int64,
    "dropped": pl.Int64,
    "lost": pl.Int64,
    "rtt_samples": pl.Int64,
    "rtt_min_ns": pl.Int64,
    "rtt_median_ns": pl.Int64,
    "rtt_p95_ns": pl.Int64,
    "delay_min_ns": pl.Int64,
    "delay_median_ns": pl.Int64,
    "delay_p95_ns": pl.Int64,
    "queueing_median_ns": pl.Int64,
    "queueing_p95_ns": pl.Int64,
    "bottleneck_min_ns": pl.Int64,
    "bottleneck_median_ns": pl.Int64,
    "bottleneck_p95_ns": pl.Int64,
    "throughput_bps": pl.Float64,
    "window_min_bytes": pl.Int64,
    "window_max_bytes": pl.Int64,
    "in_flight_max_bytes": pl.Int64,
    "in_flight_mean_bytes": pl.Float64,
    "duration_ns": pl.Int64,
    "idle_share": pl.Float64,
    "window_limited_share": pl.Float64,
    "network_limited_share": pl.Float64,
}

THROUGHPUT: Schema = {
    "flow": pl.Int32,
    "time_ns": pl.Int64,
    "bin_ns": pl.Int64,
    "packets": pl.Int64,
    "payload_bytes": pl.Int64,
    "wire_bytes": pl.Int64,
}

FLOW_OPS: Schema = {
    "flow": pl.Int32,
    "op": pl.String,
    "bytes": pl.Int64,
    "group_size": pl.Int32,
    "iteration": pl.Int32,
    "phase": pl.String,
    "group": pl.String,
    "records": pl.Int64,
    "payload_bytes": pl.Int64,
}
