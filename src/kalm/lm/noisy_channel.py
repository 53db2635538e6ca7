"""Explaining rollouts by a noisy channel: what the model would say, weighed by what it would have done.

A language model proposes texts about a rollout (`kalm.lm.explain.hypotheses`), and each is asked: had it been
the goal, how likely are the actions that were taken (`kalm.lm.inverse_planning`)? The text for which the sum
of both log-likelihoods is largest is the explanation. In translation this is noisy-channel reranking (Yee,
Dauphin and Auli 2019, "Simple and Effective Noisy Channel Modeling for Neural Machine Translation"): the
direct model knows how one speaks, the channel what was meant. It helps because acting is learnt long before
writing.
"""

from __future__ import annotations

from kalm.data.rollouts import RolloutSet
from kalm.lm.explain import hypotheses
from kalm.lm.inverse_planning import action_surprise
from kalm.lm.model import GroundedLM
from kalm.lm.prompts import EXPLANATION

BEAMS = 32


def explain_by_channel(
    model: GroundedLM,
    rollouts: RolloutSet,
    prompt: tuple[str, str] = EXPLANATION,
    *,
    beams: int = BEAMS,
    precision: str = "auto",
) -> list[str]:
    """Let the model say what each rollout is about, and take what it would itself have acted like that for.

    Args:
        model: the grounded model, on any device.
        rollouts: N rollouts; only their states and actions are shown.
        prompt: text before and after the rollout (`sequence.explanation_prompts`).
        beams: texts to choose from for each rollout.
        precision: see `GroundConfig.precision`.

    Returns:
        N texts, in the order of the rollouts.

    Raises:
        KalmError: a rollout fills the model's context.
    """
    proposed = hypotheses(model, rollouts, prompt, beams=beams, precision=precision)
    texts = sorted({text for found in proposed for text in found})
    surprise = action_surprise(model, rollouts, texts, precision)  # (N, U)
    column = {text: number for number, text in enumerate(texts)}
    return [
        max(found, key=lambda text: found[text] - surprised[column[text]])
        for found, surprised in zip(proposed, surprise, strict=True)
    ]
