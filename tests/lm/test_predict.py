import numpy as np
import torch

from kalm.lm import packing
from kalm.lm.predict import SHARED_PROMPT, predict, squared_errors


def test_many_at_a_time_equal_one_by_one(model, rollouts):
    picked = np.arange(0, rollouts.transitions, 7)
    assert len(picked) > 2 * SHARED_PROMPT
    together = predict(model, rollouts, picked)
    prompt_builder = model.prompt_builder()
    for row, found in zip(picked[:20], together, strict=False):
        owner = int(rollouts.owner[row])
        example = prompt_builder.dynamics(rollouts, owner, int(row - rollouts.action_starts[owner]))
        batch = packing.batch([[packing.group([example])]], rollouts, model.backbone.two_way_prompt)
        with torch.inference_mode():
            hidden = model.body(model.embed(batch), batch.visible, batch.position)[:, -1]
            alone = model.predicted_states(hidden, batch.present_states)
        np.testing.assert_array_equal(batch.present_states[0], rollouts.states[rollouts.before[row]])
        np.testing.assert_allclose(found, alone[0].numpy(), atol=1e-6)


def test_errors_are_those_of_the_prediction_and_of_nothing_moves(model, rollouts):
    picked = np.array([5, 3])
    ours, still = squared_errors(model, rollouts, picked)
    for place, row in enumerate(picked):
        before, after = rollouts.states[rollouts.before[row] : rollouts.before[row] + 2].astype(float)
        predicted = predict(model, rollouts, np.array([row]))[0]
        np.testing.assert_allclose(still[place], ((after - before) ** 2).sum() / 10, rtol=1e-6)
        np.testing.assert_allclose(ours[place], ((after - predicted) ** 2).sum() / 10, rtol=1e-6)


def test_no_transitions(model, rollouts):
    assert predict(model, rollouts, np.zeros(0, int)).shape == (0, 10)
