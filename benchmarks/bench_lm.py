"""The language model: cached decoding, packed fine-tuning, and the share of the machine's matrix rate.

Models have random weights: what they say does not matter for speed. The first is a small Llama; `smollm2`, or
another backbone whose settings are at hand, is measured on request. The references are what one would write
first, and do the same arithmetic on the same model:

* decoding: all rows in one batch, everything read again for every token, as the released research code does;
* an imagined rollout of Meta-World: one of the package's simulator and its scripted expert, one at a time;
* fine-tuning: `transformers.Trainer` over shuffled batches of 24 examples (the paper's batch), padded on the
  right, each example with a prompt of its own.

Both sides run in turns and the fastest turn of each counts: other work on the machine only ever slows one
down. Work is counted in the floating-point operations that the model asks for, however they are computed:
2 per weight and token (6 in training, 4 where the weight is frozen), and per layer and pair of tokens of
which one sees the other 4 times the width (12 in training). Its rate is shown as a share of what large matrix
products reach in the same run, at the same precision and with the same threads.

Imagining is measured without a reference too, with as many rows at a time as pay (`--rows`), and so is the
making of batches, which a GPU's workers have to keep up with. Peak memory is that of the process, on a GPU
that of the card.

    python benchmarks/bench_lm.py [--threads 2] [--precision float32] [--turns 2] [--clock wall]
    python benchmarks/bench_lm.py --backbone smollm2 --rollouts 48 --turns 1 --compile
    python benchmarks/bench_lm.py --backbone smollm2 --tuning lora --device cuda --precision bfloat16
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

from kalm import envs
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.lm import packing, sft
from kalm.lm.batches import StepBatches, load_batches
from kalm.lm.dataset import GroundingDataset
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.generate import imagine_rollouts
from kalm.lm.merging import merge_for_imagining
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedBatch, PackedRow
from kalm.lm.prompts import GOAL_ORIENTED
from kalm.lm.settings import GroundConfig
from kalm.lm.update import update
from kalm.pretrained import locate
from kalm.types import Instruction, Rollout

SMALL = "a small Llama"
LAYERS, WIDTH = 6, 256  # of it
GOALS, PER_GOAL = 4, 8
STEPS = (10, 50)
PADDED_BATCH = 24
TASK = "pick-place-wall"  # of Meta-World; an untrained model does not reach it
EDGE = 2048  # of the square matrices whose product gives the machine's rate
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    model: GroundedLM
    world: World
    config: GroundConfig
    turns: int
    clock: Callable[[], float]
    folder: Path

    def fastest(self, *sides: Callable[[], object]) -> list[float]:
        """Run the sides in turns and return the least seconds of each."""
        best = [float("inf")] * len(sides)
        for _ in range(self.turns):
            for index, side in enumerate(sides):
                self.wait()
                start = self.clock()
                side()
                self.wait()
                best[index] = min(best[index], self.clock() - start)
        return best

    def wait(self) -> None:
        """Let a GPU finish what it was given."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def computing(self) -> Any:
        """Return the context in which the model computes at the precision asked for."""
        return autocast(self.model.device, self.config.precision)


def main() -> None:
    """Read the options and print one line per measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", default=SMALL, help="smollm2, a hub name, a folder or a GGUF file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tuning", choices=("full", "lora"), default="full")
    parser.add_argument("--compile", action="store_true", help="compile the layers that are fine-tuned")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rollouts", type=int, default=400, help="of the fine-tuning data, 3 examples each")
    parser.add_argument("--row-tokens", type=int, default=256, help="of a packed row")
    parser.add_argument("--batch-rows", type=int, default=2, help="packed rows of a batch")
    parser.add_argument("--rows", type=int, default=512, help="rollouts that are imagined at a time")
    parser.add_argument("--turns", type=int, default=2, help="turns per side")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    world = envs.make("clevr")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = GroundConfig(
            backbone=llama(folder) if options.backbone == SMALL else options.backbone,
            pretrained=False,
            tuning=options.tuning,
            precision=options.precision,
            compile=options.compile,
            row_tokens=options.row_tokens,
            rows=options.batch_rows,
        )
        model = fresh(config, world, options.device)
        bench = Bench(model, world, config, options.turns, CLOCKS[options.clock], folder)
        size = sum(weight.numel() for weight in model.lm.parameters()) / 1e6
        print(f"{options.backbone}: {size:.0f} M parameters, {options.tuning} tuning, on {options.device}")
        peak = matrix_rate(bench)
        for steps in STEPS if options.backbone == SMALL else STEPS[:1]:
            decoding(bench, steps, peak)
        many(bench, options.rows, peak)
        if options.tuning == "lora":
            merged = copy.deepcopy(model)
            merge_for_imagining(merged, [goal.text for goal in endless(world, 1)])
            print("the same with merged adapters:")
            many(replace(bench, model=merged), options.rows, peak)
        if options.backbone == SMALL:
            arm = envs.make("metaworld")
            imagining(replace(bench, world=arm, model=fresh(config, arm, options.device)))
        fine_tuning(bench, options.rollouts, peak)


def fresh(config: GroundConfig, world: World, device: str) -> GroundedLM:
    """Return a model of this world as it is before training."""
    return sft.fresh(config, world, seed=0, device=device).eval()


def llama(folder: Path) -> str:
    """Write settings of a small Llama, without weights, and the packaged tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    tokenizer.save_pretrained(folder)
    AutoConfig.for_model(
        "llama",
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        intermediate_size=688,
        max_position_embeddings=1024,
        vocab_size=len(tokenizer),
    ).save_pretrained(folder)
    return str(folder)


def matrix_rate(bench: Bench) -> float:
    """Measure operations per second of large matrix products, and print them."""
    left, right = torch.randn(2, EDGE, EDGE, device=bench.model.device)

    def multiply() -> None:
        with torch.inference_mode(), bench.computing():
            for _ in range(5):
                torch.matmul(left, right)

    multiply()
    rate = 5 * 2 * EDGE**3 / min(bench.fastest(multiply, multiply))
    threads = torch.get_num_threads()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s in {bench.config.precision}, {threads} thread(s)")
    return rate


def report(what: str, unit: str, ours: float, plain: float, share: float) -> None:
    """Print one measurement."""
    print(
        f"{what:<24} ours {ours:7.1f} {unit}/s   plain {plain:7.1f} {unit}/s   ratio {ours / plain:5.2f}   "
        f"{share:.0%} of the matrix rate"
    )


def many(bench: Bench, rows: int, peak: float) -> None:
    """Decode many rollouts at a time."""
    goals = endless(bench.world, rows // GOALS)
    steps = STEPS[0]

    def decode() -> None:
        imagine_rollouts(
            bench.model,
            bench.world,
            goals,
            range(len(goals)),
            horizon=steps,
            precision=bench.config.precision,
        )

    forget_peak(bench)
    seconds = min(bench.fastest(decode))
    rate = decoding_work(bench.model, goals, steps) / seconds
    print(
        f"imagining, {steps} steps, {len(goals)} at a time   {len(goals) / seconds:7.1f} rollouts/s   "
        f"{rate / peak:.0%} of the matrix rate, {peak_gb(bench):.1f} GB at most"
    )


def forget_peak(bench: Bench) -> None:
    """Let the peak of memory begin anew."""
    if bench.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.model.device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(bench: Bench) -> float:
    """Return the most memory that was taken since, in GB."""
    if bench.model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.model.device) / 1e9
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


def decoding(bench: Bench, steps: int, peak: float) -> None:
    """Decode the same rollouts with and without a cache."""
    rows = endless(bench.world, PER_GOAL)
    seeds, found = range(len(rows)), {}

    def ours() -> None:
        result = imagine_rollouts(
            bench.model, bench.world, rows, seeds, horizon=steps, precision=bench.config.precision
        )
        found["ours"] = result.rollouts.states.reshape(len(rows), steps + 1, -1)

    def plain() -> None:
        found["plain"] = plainly_decoded(bench, rows, steps)

    fast, slow = bench.fastest(ours, plain)
    if bench.config.precision == "float32":
        assert np.allclose(found["ours"], found["plain"], atol=1e-3), "the two disagree"
    rate = decoding_work(bench.model, rows, steps) / fast
    report(f"decoding, {steps} steps", "rollouts", len(rows) / fast, len(rows) / slow, rate / peak)


def imagining(bench: Bench) -> None:
    """Decode rollouts of Meta-World, and simulate as many steps with the package's environment and expert."""
    goal = next(item for item in bench.world.suite("easy") if item.goal.kind == TASK)
    rows, steps = [goal] * GOALS * PER_GOAL, bench.world.spec.horizon
    bench.world.initial_states([goal.goal], [0])  # scenes are built once
    scene = ENVIRONMENTS[f"{TASK}-v3-goal-observable"](seed=0)  # pyright: ignore[reportCallIssue]
    expert = ENV_POLICY_MAP[f"{TASK}-v3"]()

    def ours() -> None:
        imagine_rollouts(
            bench.model, bench.world, rows, range(len(rows)), horizon=steps, precision=bench.config.precision
        )

    def plain() -> None:
        seen, _ = scene.reset()
        for _ in range(steps):
            seen, *_ = scene.step(np.clip(expert.get_action(seen), -1, 1))

    dreamt, simulated = bench.fastest(ours, plain)
    dreamt /= len(rows)
    print(
        f"imagining, {steps} steps     {1000 * dreamt:7.1f} ms per rollout   simulated one by one "
        f"{1000 * simulated:7.1f} ms   ratio {simulated / dreamt:5.2f}"
    )


def endless(world: World, each: int) -> list[Instruction]:
    """Return rows for lines of balls, which an untrained model does not reach: all rows take all steps."""
    lines = {i.text: i for i in world.suite("hard") if i.goal.kind == "line"}
    return [instruction for instruction in list(lines.values())[:GOALS] for _ in range(each)]


@torch.inference_mode()
def plainly_decoded(bench: Bench, rows: Sequence[Instruction], steps: int) -> np.ndarray:
    """Decode one batch, reading all that came before again for every token: -> states (N, T + 1, S)."""
    model, prompt_builder = bench.model, bench.model.prompt_builder()
    prompts = [prompt_builder.goal_prompt(row.text, GOAL_ORIENTED).value for row in rows]
    longest = max(map(len, prompts))
    padded = [[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts]
    ids = torch.tensor(padded, device=model.device)  # (N, P)
    padding = longest - torch.tensor([len(prompt) for prompt in prompts], device=model.device)  # (N,)
    starts = bench.world.initial_states([row.goal for row in rows], range(len(rows)))
    now = torch.from_numpy(starts.astype(np.float32)).to(model.device)
    states = [now]
    with bench.computing():
        sequence = model.lm.get_input_embeddings()(ids)  # (N, L, D)
        for _ in range(steps):
            sequence = torch.cat([sequence, model.state_tokens(now)], dim=1)
            actions = model.rate_actions(last_hidden(model, sequence, padding), now).argmax(dim=-1)
            sequence = torch.cat([sequence, model.embed_action(actions)[:, None]], dim=1)
            now = model.next_states(last_hidden(model, sequence, padding), now, actions).float()
            states.append(now)
    return torch.stack(states, dim=1).numpy(force=True)


def last_hidden(model: GroundedLM, sequence: Tensor, padding: Tensor) -> Tensor:
    """Read rows padded on the left: (N, L, D), (N,) -> hidden states of their last tokens (N, D)."""
    column = torch.arange(sequence.shape[1], device=sequence.device)
    position = (column - padding[:, None]).clamp(min=0)  # (N, L)
    earlier = column[None, :] <= column[:, None]  # (L, L)
    # A padding token sees itself, so that no row of the softmax is empty.
    real = (column >= padding[:, None])[:, None] | torch.eye(
        len(column), dtype=torch.bool, device=column.device
    )  # (N, L, L)
    return model.body(sequence, (earlier & real)[:, None], position)[:, -1]


def decoding_work(model: GroundedLM, rows: Sequence[Instruction], steps: int) -> float:
    """Count the operations of decoding when each goal is read once (see the head of this file)."""
    prompt_builder = model.prompt_builder()
    prompts = {row.text: len(prompt_builder.goal_prompt(row.text, GOAL_ORIENTED)) for row in rows}
    body = (model.entities + 2) * steps
    tokens = sum(prompts.values()) + len(rows) * body
    pairs = sum(map(triangle, prompts.values()))
    pairs += sum(body * prompts[row.text] + triangle(body) for row in rows)
    return 2 * body_weights(model) * tokens + 4 * pair_size(model) * pairs


def fine_tuning(bench: Bench, count: int, peak: float) -> None:
    """Train once on the same examples, packed and padded."""
    model, config = bench.model, bench.config
    rollouts = short_rollouts(bench.world, count)
    curriculum = GroundingDataset(rollouts, model.prompt_builder(), config, seed=0)
    rows = [row for step in range(curriculum.steps_per_epoch) for row in curriculum.groups(step)]
    examples = [PackedRow(g.prompt, (body,)) for row in rows for g in row for body in g.bodies]
    team = DistributedTrainer(model, sft.adamw(model, config), config.precision, bool(config.compile))
    batches = StepBatches(curriculum, model.backbone.two_way_prompt, config)
    if config.compile:
        update(team, batches[0], config)  # compiling itself is not measured

    def made() -> None:
        for step in range(len(batches)):
            batches[step]

    def packed() -> None:
        for parts in load_batches(batches, model.device, workers=config.loader_workers):
            update(team, parts, config)

    def padded() -> None:
        padded_trainer(bench, rollouts, examples).train()

    forget_peak(bench)
    fast = min(bench.fastest(packed))
    most = peak_gb(bench)
    with team.whole():  # not compiled
        slow, making = bench.fastest(padded, made)
    groups = [g for row in rows for g in row]
    tokens = sum(map(len, groups))
    rate = training_work(model, groups) / fast
    report("fine-tuning", "sequences", len(examples) / fast, len(examples) / slow, rate / peak)
    print(
        f"fine-tuning: {tokens / fast:,.0f} tokens/s, {most:.1f} GB at most; "
        f"one process makes batches of {tokens / making:,.0f} tokens/s"
    )


class WithLoss(nn.Module):
    """What a Trainer asks of a model: to give its loss."""

    def __init__(self, model: GroundedLM, config: GroundConfig) -> None:
        super().__init__()
        self.model, self.grounding = model, config  # a Trainer writes into a field `config`

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the training loss of a batch."""
        config = self.grounding
        losses = self.model(PackedBatch(**batch))
        return {"loss": losses.weighted(config.loss.text, config.loss.state, config.loss.action)}


def padded_trainer(bench: Bench, rollouts: RolloutSet, examples: list[PackedRow]) -> Trainer:
    """Return a Trainer that passes once over the examples, one example per row."""
    settings = TrainingArguments(
        output_dir=str(bench.folder / "trainer"),
        per_device_train_batch_size=PADDED_BATCH,
        num_train_epochs=1,
        learning_rate=bench.config.body_lr,
        bf16=bench.config.precision == "bfloat16",
        use_cpu=bench.model.device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )

    def pad(part: list[PackedRow]) -> dict[str, Any]:
        rows = [[example] for example in part]
        return {"batch": vars(packing.batch(rows, rollouts, bench.model.backbone.two_way_prompt))}

    trainer = Trainer(
        WithLoss(bench.model, bench.config), settings, data_collator=pad, train_dataset=examples
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def short_rollouts(world: World, count: int) -> RolloutSet:
    """Return random rollouts of the lengths that the expert's have, several per goal."""
    rng = np.random.default_rng(0)
    suite = world.suite("seen")
    rollouts = []
    for i in range(count):
        length = 1 + int(rng.geometric(0.25))
        states = rng.normal(0, 0.3, (length + 1, world.spec.state_size))
        actions = rng.integers(world.spec.action_size, size=length)
        rollouts.append(Rollout(suite[i % (count // 4)], states, actions, np.zeros(length), True, "real"))
    return RolloutSet.from_rollouts(world.spec, rollouts)


def training_work(model: GroundedLM, groups: Sequence[PackedRow]) -> float:
    """Count the operations of learning these groups once (see the head of this file)."""
    tokens = sum(map(len, groups))
    pairs = sum(
        triangle(len(g.prompt)) + sum(len(b) * len(g.prompt) + triangle(len(b)) for b in g.bodies)
        for g in groups
    )
    words = sum(int((body.asks == 0).sum()) for g in groups for body in g.bodies)
    head = table_size(model.lm.get_output_embeddings())
    trained = 6 if model.backbone.origin.tuning == "full" else 4
    return trained * body_weights(model) * tokens + 4 * head * words + 12 * pair_size(model) * pairs


def pair_size(model: GroundedLM) -> int:
    """Return layers times width: what a pair of tokens, of which one sees the other, takes."""
    return model.lm.config.num_hidden_layers * model.lm.config.hidden_size


def body_weights(model: GroundedLM) -> int:
    """Count the weights that every token goes through: all of the transformer but its table of words."""
    words = table_size(model.lm.get_input_embeddings())
    return sum(weight.numel() for weight in model.backbone.body.parameters()) - words


def table_size(layer: nn.Module | None) -> int:
    """Count the weights of a table of words."""
    assert layer is not None
    return layer.get_parameter("weight").numel()


def triangle(size: int) -> int:
    """Count pairs of tokens of which one sees the other, in a text of this size."""
    return size * (size + 1) // 2


if __name__ == "__main__":
    main()
