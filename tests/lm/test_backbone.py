"""Which models can be grounded, and that they are driven as they drive themselves."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, DynamicCache

from checkpoints import SPECIAL, make_tokenizer, write_checkpoint
from kalm.errors import KalmError
from kalm.lm import compatibility, sft
from kalm.lm.loading import load_backbone, plan_backbone
from kalm.lm.prompts import PromptBuilder


def describe(folder, family, **settings):
    """Write settings and tokenizer, and no weights."""
    AutoConfig.for_model(family, **settings).save_pretrained(folder)
    make_tokenizer(SPECIAL["llama"]).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("t5", "encoder-decoder"),
        ("bart", "encoder-decoder"),
        ("mamba", "not attention"),
        ("jamba", "not attention"),
        ("gptj", "does not support"),
        ("vit", "no form as a causal language model"),
    ],
)
def test_architectures_that_cannot_be_grounded_are_refused_without_their_weights(tmp_path, family, why):
    with pytest.raises(KalmError, match=why) as refused:
        load_backbone(describe(tmp_path, family))
    assert "such as Llama" in str(refused.value)


def test_a_body_that_takes_no_embeddings_is_refused(tmp_path):
    with pytest.raises(KalmError, match="takes no inputs_embeds, attention_mask, position_ids"):
        load_backbone(describe(tmp_path, "bart", is_encoder_decoder=False, d_model=32, encoder_layers=1))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(KalmError, match="no causal language model at"):
        load_backbone(str(tmp_path))
    with pytest.raises(KalmError, match="no causal language model at"):  # a plan, no weights
        load_backbone(describe(tmp_path, "llama", vocab_size=500))


def test_attention_that_mistakes_the_mask_is_found_out(checkpoint):
    loaded = load_backbone(str(checkpoint))
    loaded.model.set_attn_implementation("eager")  # adds a true-or-false mask to its scores
    with pytest.raises(KalmError, match="hidden states are off"):
        compatibility.require_by_trial(loaded)


def test_positions_that_do_not_count_are_found_out(tmp_path):
    loaded = load_backbone(str(write_checkpoint("gpt2", tmp_path)))
    loaded.body.wpe.register_forward_pre_hook(lambda module, inputs: (inputs[0] // 2,))
    # GPT-2 itself then halves its positions too; only the mask with positions that start anew tells.
    assert loaded.first_position == 0
    compatibility.require_by_trial(loaded)
    loaded.body.wpe.register_forward_pre_hook(
        lambda module, inputs: (torch.arange(inputs[0].numel()).reshape(inputs[0].shape) + 3,)
    )
    with pytest.raises(KalmError, match="hidden states are off"):
        compatibility.require_by_trial(loaded)


def test_roberta_begins_behind_the_paddings_position(tmp_path):
    loaded = load_backbone(str(write_checkpoint("roberta", tmp_path, pad_token_id=1)))  # tried out in there
    assert loaded.first_position == 2
    assert loaded.context == 256 - 2


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 24}),
        ("qwen2", {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}),
    ],
)
def test_up_to_its_window_a_model_with_sliding_windows_is_right(tmp_path, family, settings):
    loaded = load_backbone(str(write_checkpoint(family, tmp_path, **settings)))
    assert loaded.context == 24
    ids = torch.arange(10, 10 + loaded.context)[None]
    with torch.inference_mode():
        wanted = loaded.body(input_ids=ids, use_cache=False).last_hidden_state
        cache, words = DynamicCache(config=loaded.model.config), loaded.model.get_input_embeddings()(ids)
        hidden = [
            loaded.run(
                words[:, at : at + 1],
                torch.ones(1, 1, 1, at + 1, dtype=torch.bool),
                torch.tensor([[at]]),
                cache,
            )
            for at in range(loaded.context)
        ]
    assert torch.allclose(torch.cat(hidden, 1), wanted, atol=1e-5)


def test_qwen2_without_its_window_keeps_its_context(tmp_path):
    settings = {"sliding_window": 24, "use_sliding_window": False}
    assert load_backbone(str(write_checkpoint("qwen2", tmp_path, **settings))).context == 256


def test_a_plan_has_the_shapes_of_the_model(checkpoint):
    loaded, plan = load_backbone(str(checkpoint)), plan_backbone(str(checkpoint))[0]
    shapes = [{n: p.shape for n, p in b.model.named_parameters()} for b in (loaded, plan)]
    assert shapes[0] == shapes[1]
    assert all(p.is_meta for p in plan.model.parameters())
    assert (loaded.context, loaded.width, loaded.hidden_size) == (plan.context, plan.width, plan.hidden_size)


def test_the_families_have_the_tokenizers_that_make_trouble(tmp_path):
    found = {}
    for family in ("llama", "qwen2", "gpt2"):
        found[family] = AutoTokenizer.from_pretrained(write_checkpoint(family, tmp_path / family))
    assert found["llama"].pad_token is None and found["gpt2"].pad_token is None
    assert found["qwen2"].bos_token is None and found["qwen2"].cls_token is None
    prompt_builder = PromptBuilder(found["qwen2"], 256)
    assert prompt_builder.prompt("Push").value.tolist() == prompt_builder.ids("Push")  # no start token
    prompt_builder = PromptBuilder(found["gpt2"], 256)
    assert prompt_builder.start == prompt_builder.end


def test_a_tokenizer_that_cannot_end_a_text_is_refused():
    with pytest.raises(KalmError, match="could not end"):
        PromptBuilder(make_tokenizer({"bos_token": "<s>"}), 256)


def test_a_random_body_has_the_size_of_the_pretrained_one(config, world):
    pretrained = sft.fresh(config, world, 0, "cpu")
    random = config.changed(pretrained=False)
    one, two, other = (sft.fresh(random, world, seed, "cpu") for seed in (0, 0, 1))
    weight = "lm." + next(n for n, p in pretrained.lm.named_parameters() if p.dim() == 2)
    assert {n: p.shape for n, p in one.named_parameters()} == {
        n: p.shape for n, p in pretrained.named_parameters()
    }
    assert torch.equal(one.get_parameter(weight), two.get_parameter(weight))
    assert not torch.equal(one.get_parameter(weight), other.get_parameter(weight))
    assert not torch.equal(one.get_parameter(weight), pretrained.get_parameter(weight))


def test_a_rollout_longer_than_the_context_is_refused_before_training(single, world, rollouts, tmp_path):
    narrow = write_checkpoint("llama", tmp_path / "narrow", max_position_embeddings=80)
    with pytest.raises(KalmError, match=r"steps and its goal need \d+ positions, the model has 80"):
        sft.finetune(
            sft.fresh(single.changed(backbone=str(narrow)), world, 0, "cpu"),
            rollouts,
            world,
            single,
            0,
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_the_room_asked_for_is_that_of_the_longest_example(single, world, rollouts):
    from kalm.lm.prompts import PROMPTS

    prompt_builder = sft.fresh(single, world, 0, "cpu").prompt_builder()
    examples = [prompt_builder.explanation(rollouts, i) for i in range(len(rollouts))]
    for template in PROMPTS.values():
        examples += [prompt_builder.generation(rollouts, i, template) for i in range(len(rollouts))]
    prompt_builder.context = max(len(example.prompt) + len(example.body) for example in examples)
    prompt_builder.require_room(rollouts)
    prompt_builder.context -= 1
    with pytest.raises(KalmError, match="too long"):
        prompt_builder.require_room(rollouts)


def test_a_model_of_another_world_does_not_imagine(model, world, rows):
    from kalm.lm.generate import imagine_rollouts

    model.spec = dataclasses.replace(model.spec, name="elsewhere")
    with pytest.raises(KalmError, match="grounded in 'elsewhere'"):
        imagine_rollouts(model, world, rows[:1], [0], horizon=1)
