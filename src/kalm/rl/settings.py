"""Settings of offline RL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kalm.run.section import Names, Section, Seeds, Widths


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
    per_level: bool = Field(default=False, description="one policy per novel level, as the paper does")
    encoder: str = Field(
        default="minilm", description="frozen sentence encoder: `minilm`, a hub name or a folder"
    )
    hidden: Widths = Field(default=(256, 256), description="hidden layers of the policy network")
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
    cql_alpha: float = Field(default=10.0, ge=0, description="weight of CQL's conservative term (paper: 10)")
    cql_samples: int = Field(
        default=10,
        gt=0,
        description="CQL and COMBO on continuous actions: actions per state that their conservative term "
        "draws from the policy, from the policy one step later, and uniformly; time grows with it",
    )
    td3bc_alpha: float = Field(default=2.5, gt=0, description="TD3+BC: weight of value against copying")
    awac_lambda: float = Field(default=1.0, gt=0, description="AWAC: temperature of the advantage")
    iql_expectile: float = Field(default=0.7, gt=0, lt=1, description="IQL: 0.5 values the mean, 1 the best")
    iql_temperature: float = Field(default=3.0, gt=0, description="IQL: weight of the advantage")
    reward_scale: float = Field(
        default=0.01,
        gt=0,
        description="factor of rewards for td3bc, awac, iql, and combo on discrete actions: scale 1",
    )
    combo_alpha: float = Field(
        default=10.0, ge=0, description="weight of COMBO's conservative term beside half of the squared error"
    )
    combo_real_share: float = Field(
        default=0.8, gt=0, lt=1, description="COMBO: share of a batch that is data; the rest is the model's"
    )
    combo_horizon: int = Field(default=5, gt=0, description="COMBO: largest number of steps in the model")
    combo_rollouts: int = Field(default=2_000, gt=0, description="COMBO: model rollouts that begin together")
    combo_refresh: int = Field(default=500, gt=0, description="COMBO: steps from one time to the next")
    combo_explore: float = Field(
        default=0.1, ge=0, le=1, description="COMBO: share of the model's actions that are drawn uniformly"
    )
    combo_target: int = Field(
        default=500, gt=0, description="COMBO, discrete actions: steps between copies to the target network"
    )
    checkpoint_every: int = Field(default=5_000, gt=0, description="steps between checkpoints")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between looks at success in the simulator; 0: none"
    )
    evaluate_episodes: int = Field(
        default=40, gt=0, description="episodes per level in such a look, the same in every one"
    )
