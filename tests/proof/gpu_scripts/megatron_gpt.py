"""Train Megatron-core's GPT with tensor and pipeline parallelism."""

import os
import sys

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

tensor_size, pipeline_size = int(sys.argv[1]), int(sys.argv[2])
LENGTH, BATCH, MICRO_BATCHES, VOCABULARY = 256, 2, 4, 1024
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
torch.distributed.init_process_group("nccl")
parallel_state.initialize_model_parallel(tensor_size, pipeline_size)
model_parallel_cuda_manual_seed(123)
config = TransformerConfig(
    num_layers=4,
    hidden_size=512,
    num_attention_heads=8,
    use_cpu_initialization=False,
    pipeline_dtype=torch.bfloat16,
    bf16=True,
    params_dtype=torch.bfloat16,
    tensor_model_parallel_size=tensor_size,
    pipeline_model_parallel_size=pipeline_size,
)
gpt = GPTModel(
    config=config,
    transformer_layer_spec=get_gpt_layer_local_spec(),
    vocab_size=VOCABULARY,
    max_sequence_length=LENGTH,
    pre_process=parallel_state.is_pipeline_first_stage(),
    post_process=parallel_state.is_pipeline_last_stage(),
).cuda()
model = Float16Module(config, gpt)
ddp_config = DistributedDataParallelConfig(
    grad_reduce_in_fp32=True, overlap_grad_reduce=True, use_distributed_optimizer=True
)
model = DistributedDataParallel(config=config, ddp_config=ddp_config, module=model)
optimizer = get_megatron_optimizer(
    OptimizerConfig(optimizer="adam", lr=1e-3, bf16=True, use_distributed_optimizer=True), [model]
)
config.finalize_model_grads_func = finalize_model_grads
config.grad_scale_func = optimizer.scale_loss


def batches():
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), device="cuda")
    positions = torch.arange(LENGTH, device="cuda").expand(BATCH, LENGTH)
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool, device="cuda").triu(1)
    while True:
        yield tokens, positions, mask


def loss_of(output):
    loss = output.float().mean()
    return loss, {"loss": loss.detach()}


def forward_step(iterator, module):
    tokens, positions, mask = next(iterator)
    return module(tokens, positions, mask, labels=tokens), loss_of


forward_backward = get_forward_backward_func()
for step in range(3):
    model.zero_grad_buffer()
    optimizer.zero_grad()
    losses = forward_backward(
        forward_step_func=forward_step,
        data_iterator=batches(),
        model=[model],
        num_microbatches=MICRO_BATCHES,
        seq_length=LENGTH,
        micro_batch_size=BATCH,
        forward_only=False,
    )
    optimizer.step()
    print("step", step, [float(one["loss"]) for one in losses], flush=True)
torch.distributed.destroy_process_group()
print("peak", torch.cuda.max_memory_allocated())
