"""Train a GPT-2 or a Llama from its configuration with Hugging Face's Trainer."""

import sys

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Trainer, TrainingArguments


class Tokens(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        tokens = torch.randint(1000, (256,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


name, *options = sys.argv[1:]
configs = {
    "gpt2": GPT2Config(n_layer=4, n_head=8, n_embd=512, vocab_size=1024),
    "llama": LlamaConfig(
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        hidden_size=512,
        intermediate_size=1024,
        vocab_size=1024,
    ),
}
model = AutoModelForCausalLM.from_config(configs[name])
arguments = TrainingArguments(
    output_dir="out-" + name,
    max_steps=4,
    per_device_train_batch_size=4,
    bf16=True,
    logging_steps=1,
    report_to="none",
    save_steps=2,
    gradient_checkpointing="checkpointing" in options,
    gradient_accumulation_steps=2,
    eval_strategy="steps" if "eval" in options else "no",
    eval_steps=2,
    fsdp="full_shard auto_wrap" if "fsdp" in options else "",
    fsdp_config={"version": 2} if "fsdp" in options else None,
)
trainer = Trainer(model=model, args=arguments, train_dataset=Tokens(), eval_dataset=Tokens())
trainer.train()
print("peak", torch.cuda.max_memory_allocated())
