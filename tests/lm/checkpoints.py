"""Small random language models saved to disk in the Hugging Face layout."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from kalm.lm.prompts import DYNAMICS, EXPLANATION, PROMPTS

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
# GPT-2 begins texts with its end token; Qwen2 begins them with nothing; only BERT pads.
SPECIAL = {
    "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "qwen2": {"eos_token": "<|end|>"},
    "gpt2": {"bos_token": "<|end|>", "eos_token": "<|end|>"},
}


def write_checkpoint(family: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a random model of a family and a small byte-level tokenizer."""
    tokenizer = make_tokenizer(SPECIAL.get(family, SPECIAL["llama"]))
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SIZES, **settings}, vocab_size=len(tokenizer))
    config.is_decoder = True
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(special: dict[str, str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose words are those of the prompts."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=sorted(set(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*PROMPTS.values(), *EXPLANATION, *DYNAMICS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)
