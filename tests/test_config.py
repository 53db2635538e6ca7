import pytest

from kalm import config
from kalm.errors import KalmError


def test_a_preset_then_top_fields_then_overrides():
    found = config.load_config("demo", ["train.steps=7", "imagine.seen=2"], seed=5)
    assert (found.train.steps, found.imagine.seen, found.seed) == (7, 2, 5)
    assert found.imagine.hard == config.load_config("demo").imagine.hard


@pytest.mark.parametrize("env", ["clevr", "metaworld"])
@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_is_valid(name, env):
    found = config.load_config(name, env=env)
    assert config.parse_config(found.model_dump(mode="json")) == found and found.env == env


def test_a_world_may_have_its_own_form_of_a_preset():
    assert (
        config.load_config("demo", env="metaworld").collect != config.load_config("demo", env="clevr").collect
    )
    assert (
        config.load_config("demo", env="elsewhere").collect == config.load_config("demo", env="clevr").collect
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.stepz=1", "unknown field 'train.stepz'. Known: train.algorithms"),
        ("trian.steps=1", "unknown field 'trian'. Known: collect"),
        ("train.steps=0", "train.steps: Input should be greater than 0, got 0"),
        ("train.steps=many", "train.steps"),
        ("train.steps", "has no '='"),
        ("seed.x=1", "seed"),
        ("train.steps=[", "is not a YAML value"),
    ],
)
def test_bad_overrides_say_what_is_allowed(override, says):
    with pytest.raises(KalmError) as error:
        config.load_config(None, [override], seed=1)
    assert says in str(error.value)


def test_an_unknown_preset_lists_those_that_exist():
    with pytest.raises(KalmError, match="Known: demo, mini, paper"):
        config.load_config("dmeo")


def test_a_preset_may_be_a_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("train:\n  steps: 7\n")
    assert config.load_config(str(mine), ["train.batch=8"]).train.steps == 7
    mine.write_text("just words")
    for path in (mine, tmp_path / "none.yaml"):
        with pytest.raises(KalmError, match=path.name):
            config.load_config(str(path))
