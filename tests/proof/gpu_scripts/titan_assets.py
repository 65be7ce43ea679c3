"""Write what torchtitan's debug model reads, which its wheel lacks: a tokenizer and a text.

usage: titan_assets.py FOLDER
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
WORDS = 500
folder = Path(sys.argv[1])
texts = []
for first in range(2000):
    numbers = [(7 * first + 13 * place * place) % WORDS for place in range(400)]
    texts.append(" ".join(f"word{number}" for number in numbers))

(folder / "text").mkdir()
lines = [json.dumps({"text": text}) for text in texts]
(folder / "text" / "data.json").write_text("\n".join(lines))
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=2000,
    special_tokens=[BEGIN, END],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
tokenizer.train_from_iterator(texts[:50], trainer)
(folder / "tokenizer").mkdir()
tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
config = json.dumps({"bos_token": BEGIN, "eos_token": END})
(folder / "tokenizer" / "tokenizer_config.json").write_text(config)
