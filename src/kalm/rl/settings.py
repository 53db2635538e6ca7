"""Settings of offline RL: what every algorithm reads, and a section for each algorithm's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kalm.rl.algorithms.awac import AWACConfig
from kalm.rl.algorithms.combo import COMBOConfig
from kalm.rl.algorithms.cql import CQLConfig
from kalm.rl.algorithms.iql import IQLConfig
from kalm.rl.algorithms.td3bc import TD3BCConfig
from kalm.runs.section import Names, Section, Seeds, Widths


class TrainConfig(Section):
    """Offline RL on real and imagined rollouts (paper section 4.3)."""

    algorithms: Names = Field(
        default=("bc", "cql"), description="learners, each plain and with imagined rollouts"
    )
    seeds: Seeds = Field(default=(0, 1), description="one policy per seed")
    steps: int = Field(default=20_000, gt=0, description="gradient steps")
    batch: int = Field(default=256, gt=0, description="transitions per step")
    mix: float = Field(default=0.5, ge=0, le=1, description="share of each batch that is imagined")
    real_rollouts: int | None = Field(
        default=6_400, gt=0, description="real rollouts the learners see; None: all"
    )
    imagined: Literal["successful", "all"] = Field(
        default="successful",
        description="imagined rollouts the learners see: those whose states reach the goal, or all",
    )
    plain: bool = Field(
        default=True, description="also train each algorithm without imagined rollouts, to compare"
    )
    controls: tuple[Literal["shuffled", "unfiltered"], ...] = Field(
        default=(),
        description="baselines of +KALM that are trained too: `shuffled` learns from rollouts imagined with "
        "the sentences permuted among goals, which is what the filter alone gives; `unfiltered` from the "
        "first try of every rollout, whether it reaches its goal or not",
    )
    per_level: bool = Field(default=False, description="one policy per novel level, as the paper does")
    encoder: str = Field(
        default="minilm", description="frozen sentence encoder: `minilm`, a hub name or a folder"
    )
    hidden: Widths = Field(default=(256, 256), description="hidden layers of every network")
    goal_noise: float = Field(
        default=0.0,
        ge=0,
        description="length of the normal noise on goal vectors, as a share of theirs: what is worded nearly "
        "the same then means the same",
    )
    standardise: bool = Field(
        default=False, description="learners see states in units of their spread in the real data"
    )
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    lr_decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps, the last, in which the learning rate falls to zero, in a straight "
        "line; 0: it stays",
    )
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount")
    reward_scale: float = Field(
        default=0.01,
        gt=0,
        description="factor of rewards for td3bc, awac, iql, and combo on discrete actions: scale 1",
    )
    cql: CQLConfig = CQLConfig()
    td3bc: TD3BCConfig = TD3BCConfig()
    awac: AWACConfig = AWACConfig()
    iql: IQLConfig = IQLConfig()
    combo: COMBOConfig = COMBOConfig()
    checkpoint_every: int = Field(default=5_000, gt=0, description="steps between checkpoints")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between evaluations in the simulator; 0: none"
    )
    evaluate_episodes: int = Field(
        default=40, gt=0, description="episodes per level in such an evaluation, the same in every one"
    )
