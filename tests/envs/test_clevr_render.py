import os
import subprocess
import sys

import numpy as np
import pytest

from kalm.envs.clevr.rays import cast_rays
from kalm.envs.clevr.render import _painter, render
from kalm.errors import KalmError

#                 red         blue       green       purple      cyan
STATE = np.array([-0.4, -0.1, 0.4, -0.1, -0.4, 0.5, 0.4, 0.5, 0.0, 0.2])


def middle(picture, color):
    """Mean (row, column) of the pixels near this colour, as shares of the side."""
    near = np.abs(picture / np.maximum(picture.max(axis=2, keepdims=True), 1) - color).max(axis=2) < 0.15
    assert near.sum() > 20, near.sum()
    return np.argwhere(near).mean(axis=0) / len(picture)


@pytest.mark.parametrize("draw", [render, cast_rays])
def test_right_side_up(draw):
    picture = draw(STATE, 200)
    assert picture.shape == (200, 200, 3) and picture.dtype == np.uint8
    red, blue = middle(picture, [1, 0.1, 0.1]), middle(picture, [0.2, 0.5, 1])
    green, purple = middle(picture, [0.2, 1, 0]), middle(picture, [0.8, 0.2, 1])
    cyan = middle(picture, [0.2, 1, 1])
    assert green[0] < cyan[0] < red[0] and purple[0] < cyan[0] < blue[0]  # what is behind is higher up
    assert red[1] < cyan[1] < blue[1] and green[1] < cyan[1] < purple[1]


def test_both_ways_of_drawing_show_the_same_scene():
    if _painter() is cast_rays:
        pytest.skip("no GL on this machine")
    difference = np.abs(render(STATE, 128).astype(float) - cast_rays(STATE, 128))
    assert np.percentile(difference, 90) < 40


def test_without_gl_rays_are_cast_and_the_environment_is_left_alone():
    code = (
        "import os, logging; logging.basicConfig(level=logging.INFO);"
        "import numpy as np; from kalm.envs.clevr.render import _painter, render;"
        f"s = np.array({STATE.tolist()}); a = render(s, 32); b = render(s, 32);"
        "from kalm.envs.clevr.rays import cast_rays;"
        "assert (a == cast_rays(s, 32)).all() and (a == b).all();"
        "assert os.environ['PYOPENGL_PLATFORM'] == 'glx' and 'MUJOCO_GL' not in os.environ"
    )
    # EGL refuses to load when PyOpenGL is told to use another platform.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYOPENGL_PLATFORM": "glx"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("casting rays") == 1, done.stderr


@pytest.mark.parametrize(
    ("state", "size"), [(np.zeros(15), 64), (np.full(10, np.nan), 64), (STATE, 8), (STATE, 5000)]
)
def test_bad_input_is_named(state, size):
    with pytest.raises(KalmError, match="picture"):
        render(state, size)
