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
# What further families need to be small; the tokenizer has no padding, so nothing may point to it.
LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
FURTHER: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "cohere": {"logit_scale": 0.0625, "pad_token_id": None, "eos_token_id": 1, "bos_token_id": 0},
    "cohere2": {"logit_scale": 0.0625, "pad_token_id": None, "eos_token_id": 1, "bos_token_id": 0},
    "minicpm3": {**LATENT, "dim_model_base": 2, "scale_emb": 12},
    "electra": {"embedding_size": 16},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "biogpt": {},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "deepseek_v3": {
        **LATENT,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
}


def write_checkpoint(family: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a random model of a family and a small byte-level tokenizer."""
    tokenizer = make_tokenizer(SPECIAL.get(family, SPECIAL["llama"]))
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, **{**SIZES, **FURTHER.get(family, {}), **settings}, vocab_size=len(tokenizer)
    )
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
