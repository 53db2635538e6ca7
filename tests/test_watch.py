"""One sentence, watched: from Python and from the command line, with a small random model that imagines."""

import json
import shutil

import imageio.v3 as imageio
import numpy as np
import pytest

import kalm
from checkpoints import with_threshold
from kalm.envs import make
from kalm.envs.sentences import plain_steps
from kalm.report.video import GAP, HOLD
from whole_runs import here

TRAIN = {"train.steps": 20, "train.batch": 16, "train.hidden": [16]}
SIZE = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_lm, sure_reader):
    """A folder with a grounded model and a policy: -> folder, and settings that name the reader."""
    folder = tmp_path_factory.mktemp("watched")
    ground = {"held_out": 4, "epochs": 0.2, "match_rollouts": 0, "explain_rollouts": 0, "network_steps": 5}
    backbone, encoder = (part.partition("=")[2] for part in small_lm[1::2])
    real = kalm.collect(folder / "real", env="clevr", rollouts=30, workers=1)
    kalm.ground(real, folder / "grounded", backbone=backbone, settings={"ground": ground})
    train = {**TRAIN, "train.encoder": encoder}
    kalm.train(real, None, folder / "policies", algorithms=["bc"], seeds=[0], workers=1, settings=train)
    return folder, {"reader": str(sure_reader), "imagine.temperature": 0.8, "imagine.horizon": 6}


@pytest.fixture(scope="module")
def text():
    return next(iter(plain_steps(make("clevr")).values())).text


@pytest.fixture(scope="module")
def watched(run, text):
    folder, settings = run
    policy = folder / "policies" / "bc-seed0"
    return kalm.watch(text, model=folder / "grounded", policy=policy, seed=4, settings=settings)


def test_all_begin_in_one_state_and_the_simulator_takes_the_imagined_actions(watched):
    dream, answer, played = (view.rollout for view in watched.views)
    assert (dream.source, answer.source, played.source) == ("imagined", "real", "real")
    for other in (answer, played):
        assert np.allclose(other.states[0], dream.states[0], atol=1e-6)
    assert np.array_equal(answer.actions, dream.actions[: len(answer.actions)])
    assert len(answer.actions) == len(dream.actions) or answer.success
    assert "read as" in str(watched) and all(view.verdict in str(watched) for view in watched.views)


def test_the_same_seed_shows_the_same_and_another_begins_elsewhere(watched, run, text):
    folder, settings = run
    again, other = (
        kalm.watch(text, model=folder / "grounded", seed=seed, settings=settings) for seed in (4, 5)
    )
    assert len(again.views) == 2
    assert np.array_equal(again.views[0].rollout.states, watched.views[0].rollout.states)
    assert not np.allclose(other.views[0].rollout.states[0], watched.views[0].rollout.states[0])


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_film_shows_every_action_and_holds_the_end(watched, tmp_path, ending):
    file = watched.save(tmp_path / f"film.{ending}", SIZE)
    last = max(len(view.rollout.actions) for view in watched.views)
    # A GIF keeps one frame for those that are alike.
    frames = imageio.imread(file, plugin="pyav") if ending == "mp4" else imageio.imread(file)
    assert len(frames) == last + 1 + HOLD if ending == "mp4" else len(frames) > 1
    assert frames.shape[2] == 3 * (SIZE + GAP) + GAP and frames.shape[3] == 3
    first, end = frames[0].astype(int), frames[-1].astype(int)
    assert (abs(first - end) > 40).any(), "nothing moves"
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_a_strip_of_pictures(watched, tmp_path):
    picture = imageio.imread(watched.save(tmp_path / "strip.png"))
    assert picture.shape[0] > 300 and picture[..., :3].std() > 10


def test_what_cannot_be_watched_is_told(run, text, tmp_path, watched, sure_reader):
    folder, settings = run
    with pytest.raises(kalm.KalmError, match="Give a grounded model, a policy, or both"):
        kalm.watch(text, settings=settings)
    unsure = with_threshold(shutil.copytree(sure_reader, tmp_path / "reader"), 1.0)
    with pytest.raises(kalm.KalmError, match="does not understand 'Sing a song'.*`kalm read`"):
        policy = folder / "policies" / "bc-seed0"
        kalm.watch("Sing a song", policy=policy, settings={**settings, "reader": str(unsure)})
    with pytest.raises(kalm.KalmError, match="unknown kind of film '.avi'"):
        watched.save(tmp_path / "film.avi")
    assert [entry.name for entry in tmp_path.iterdir()] == ["reader"]


def test_commands(run, text, tmp_path):
    folder, settings = run
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    policy = ("--policy", folder / "policies" / "bc-seed0")
    told = json.loads(here("play", *policy, "--text", text, *sets, "--json").stdout)
    assert told["text"] == text and list(told["rollouts"]) == ["policy"]
    film = tmp_path / "film.gif"
    here("imagine", "--model", folder / "grounded", *policy, "--text", text, "--out", film, *sets)
    assert len(imageio.imread(film)) > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--text", "Sing!", "--real", "data", "--level", "hard"],
            "--level and --real cannot be used with --text",
        ),
        (["--text", "Sing!", "--overwrite"], "--overwrite cannot be used with --text"),
        (["--policy", "p", "--own-words"], "--policy and --own-words cannot be used without --text"),
    ],
)
def test_options_of_films_and_of_folders_do_not_mix(tmp_path, options, says):
    with pytest.raises(kalm.KalmError, match=says):
        here("imagine", "--model", "clevr-smollm2", "--out", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_the_first_minute(tmp_path):
    text = "The red ball should sit on the far side of the blue one, and the green one left of the cyan one."
    film = tmp_path / "film.mp4"
    shown = here(
        "imagine",
        "--model",
        "clevr-smollm2",
        "--policy",
        "clevr-bc-kalm",
        "--text",
        text,
        "--out",
        film,
        "--json",
    )
    found = json.loads(shown.stdout)
    assert found["reading"]["steps"] == [
        "Push the red ball behind the blue ball.", "Push the green ball to the left of the cyan ball.",
    ]  # fmt: skip
    assert film.stat().st_size > 10_000
    assert all(rollout["success"] for rollout in found["rollouts"].values()) and len(found["rollouts"]) == 3
