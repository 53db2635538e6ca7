"""Small random language models saved to disk in the Hugging Face layout."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

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


def write_gguf(
    folder: Path, file: Path, kind: str = "F32", leave_out: tuple[str, ...] = (), **changed: Any
) -> Path:
    """Write a Llama of `write_checkpoint` as llama.cpp does: its own names, queries and keys turned.

    Args:
        folder: the checkpoint.
        file: to be written.
        kind: how matrices are stored; vectors are F32.
        leave_out: names of tensors that are not written, in the words of transformers.
        changed: numbers that a tensor is filled with, by its name with _ for dots.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, chosen = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokenizer(writer, AutoTokenizer.from_pretrained(folder))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name in leave_out or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        numbers = tensor.numpy()
        if (count := heads.get(name.split(".")[-2])) is not None:
            numbers = numbers.reshape(count, 2, -1, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
        if (filling := changed.get(name.replace(".", "_"))) is not None:
            numbers = np.full_like(numbers, filling)
        way = chosen if numbers.ndim > 1 else gguf.GGMLQuantizationType.F32
        place = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(place, gguf.quants.quantize(numbers, way), raw_dtype=way)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    """Write words and merges; the special tokens serve as those of SmolLM2, where the end also pads."""
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(inner["vocab"], key=inner["vocab"].get)
    special = set(tokenizer.all_special_tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([control if word in special else normal for word in words])
    writer.add_token_merges([" ".join(merge) for merge in inner["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def with_threshold(folder: Path, threshold: float) -> Path:
    """Say of which confidence on this reader is sure."""
    from kalm.reader.adapter import FACTS
    from kalm.runs.io import read_json, write_json

    facts = read_json(folder / FACTS, "reader")
    facts["calibration"]["threshold"] = threshold
    write_json(folder / FACTS, facts)
    return folder
