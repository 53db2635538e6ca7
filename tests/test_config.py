import json
import re
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from kalm import config
from kalm.config.presets import FOLDER
from kalm.config.renamed import RENAMED, new_path
from kalm.data.settings import CollectConfig
from kalm.errors import KalmError
from kalm.lm.settings import GroundConfig


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
    clevr, arm, elsewhere = (
        config.load_config("demo", env=env).collect for env in ("clevr", "metaworld", "elsewhere")
    )
    assert arm != clevr == elsewhere


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_says_only_what_differs(path):
    """No field repeats what the presets below it, or the defaults, say already."""

    def repeated(own, below, prefix=""):
        for name, value in own.items():
            if isinstance(value, dict):
                yield from repeated(value, getattr(below, name), f"{prefix}{name}.")
            elif json.loads(below.model_dump_json())[name] == value:
                yield prefix + name

    own = yaml.safe_load(path.read_text("utf-8"))
    base = own.pop("extends", None)
    below = config.load_config(str(path.parent / base) if base else None)
    assert list(repeated(own, below)) == []


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.stepz=1", "unknown field 'train.stepz'. Known: train.algorithms"),
        ("ground.lora.rang=1", "unknown field 'ground.lora.rang'. Known: ground.lora.alpha"),
        ("trian.steps=1", "unknown field 'trian'. Known: collect"),
        ("train.steps=0", "train.steps: Input should be greater than 0, got 0"),
        ("train.steps=many", "train.steps"),
        ("train.steps=true", "train.steps: true is neither a number nor a name"),
        ("train.lr=.inf", "train.lr: Input should be a finite number"),
        ("train.lr=.nan", "train.lr"),
        ("train.steps", "has no '='"),
        ("seed.x=1", "seed"),
        ("ground.backbone.x=1", "ground.backbone"),
        ("train.steps=[", "is not a YAML value"),
        ("train.real_rollouts=-3", "train.real_rollouts: Input should be greater than 0, got -3"),
        ("ground.rollouts=0", "ground.rollouts"),
        ("imagine.horizon=-1", "imagine.horizon"),
        ("imagine.horizon=0", "imagine.horizon"),
        ("evaluate.horizon=0", "evaluate.horizon"),
        ("train.hidden=[]", "train.hidden"),
        ("train.hidden=[64, 0]", "train.hidden.1"),
        ("dynamics.hidden=[]", "dynamics.hidden"),
        ("train.seeds=[]", "train.seeds"),
        ("train.seeds=[0, 0]", "train.seeds: 0 more than once"),
        ("train.seeds=[-1]", "train.seeds.0"),
        ("train.algorithms=[]", "train.algorithms"),
        ("ground.tasks={generation: 0, explanation: 0, dynamics: 0}", "every task gives 0 examples"),
        ("decision_transformer.target=.inf", "decision_transformer.target"),
        ("ground=3", "ground"),
    ],
)
def test_bad_overrides_say_what_is_allowed(override, says):
    with pytest.raises(KalmError) as error:
        config.load_config(None, [override], seed=1)
    assert says in str(error.value)


def test_an_unknown_preset_lists_those_that_exist():
    with pytest.raises(KalmError, match="Known: demo, gpu, mini, paper"):
        config.load_config("dmeo")


def test_a_preset_may_be_a_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("train:\n  steps: 7\n")
    assert config.load_config(str(mine), ["train.batch=8"]).train.steps == 7
    mine.write_text("just words")
    for path in (mine, tmp_path / "none.yaml"):
        with pytest.raises(KalmError, match=path.name):
            config.load_config(str(path))


def test_a_file_extends_files_and_presets(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text("extends: demo\ntrain: {steps: 3, hidden: [8]}\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: below/base.yaml\ntrain: {hidden: [16, 16]}\nground: {lora: {rank: 2}}\n")
    found, demo = config.load_config(str(mine)), config.load_config("demo")
    assert (found.train.steps, found.train.hidden, found.ground.lora.rank) == (3, (16, 16), 2)
    assert found.imagine == demo.imagine and found.ground.lora.alpha == demo.ground.lora.alpha
    arm = config.load_config(str(mine), env="metaworld")
    assert arm.imagine == config.load_config("demo", env="metaworld").imagine
    mine.write_text("extends: demo\nenv: metaworld\n")  # the file itself says whose form
    assert config.load_config(str(mine)) == config.load_config("demo", env="metaworld")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("extends: other.yaml", "mine.yaml extends .*other.yaml extends .*mine.yaml"),
        ("extends: mine.yaml", "extend themselves"),
        ("extends: none.yaml", "none.yaml"),
        ("extends: dmeo", "Known: demo"),
        ("extends: [demo]", "extends is"),
        ("3: 4", "no section's name"),
    ],
)
def test_a_file_that_cannot_extend_says_why(tmp_path, text, why):
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(KalmError, match=why):
        config.load_config(str(mine))


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_old_key_names_the_new_one(old, tmp_path):
    new = RENAMED[old]
    assert new_path(old) == new and any(
        setting.path == new or setting.path.startswith(f"{new}.") for setting in config.describe_settings()
    )
    says = f"'{old}' is now '{new}'"
    with pytest.raises(KalmError, match=says):
        config.load_config(None, [f"{old}=1"])
    data: dict = {"x": 1}
    for part in reversed(old.split(".")):
        data = {part: data if part != old.split(".")[-1] else 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(KalmError, match=says):
        config.load_config(str(tmp_path / "mine.yaml"))


def test_what_kept_its_name_in_a_renamed_section_is_told_too():
    with pytest.raises(KalmError, match=r"'decision\.steps' is now 'decision_transformer\.steps'"):
        config.load_config(None, ["decision.steps=3"])
    with pytest.raises(KalmError, match=r"'rounds\.count' is now 'online\.rounds'"):
        config.parse_config({"rounds": {"count": 2}})


@pytest.mark.parametrize("path", ["/models/\N{GRINNING FACE}/小", "C:\\new\\table", "a b: c", "[x"])
def test_paths_of_any_letters_come_through(path):
    for text in (json.dumps(path), json.dumps(path, ensure_ascii=False)):
        found = config.load_config(None, [f"ground.backbone={text}"]).ground.backbone
        assert found == path and found.encode()


def test_a_name_may_look_like_something_else():
    found = config.load_config(None, ["ground.backbone=7", "train.encoder=no", "online.algorithm=null"])
    assert (found.ground.backbone, found.train.encoder, found.online.algorithm) == ("7", "no", None)


def test_numbers_as_people_write_them():
    found = config.load_config(None, ["ground.body_lr=2e-5", "train.steps=1_000", "train.seeds=[3]"])
    assert (found.ground.body_lr, found.train.steps, found.train.seeds) == (2e-5, 1000, (3,))


def test_every_setting_is_described_and_every_number_bounded():
    settings = config.describe_settings()
    assert len({setting.path for setting in settings}) == len(settings) > 100
    for setting in settings:
        assert setting.description, setting.path
        number = re.search(r"\b(int|float)\b", setting.type)
        assert setting.bounds or not number or setting.path in UNBOUNDED, setting.path
    by_path = {setting.path: setting for setting in settings}
    assert by_path["train.hidden"].bounds == "at least 1, each > 0"
    assert by_path["train.mix"].bounds == ">= 0, <= 1"
    assert by_path["train.real_rollouts"].type == "int | None"
    assert by_path["ground.lora.rank"].default == 16
    assert by_path["ground.tuning"].type == "'full' | 'lora' | 'frozen'"
    assert {setting.path.rpartition(".")[0] for setting in settings} == config.sections().keys()


UNBOUNDED = {"decision_transformer.target"}  # a return: rewards have either sign


def test_changes_are_checked_and_reach_into_sections():
    ground = GroundConfig(lora={"rank": 4})
    changed = ground.changed(lora={"dropout": 0.1}, rows=3)
    assert (changed.lora.rank, changed.lora.dropout, changed.rows) == (4, 0.1, 3)
    assert ground.lora.dropout == 0.0
    for wrong in ({"rowz": 1}, {"rows": 0}, {"lora": {"rank": 0}}, {"lora": {"x": 1}}, {"action_bins": 2}):
        with pytest.raises(ValidationError):
            ground.changed(**wrong)
    whole = config.Config().changed(ground={"lora": {"rank": 2}})
    assert whole.ground.lora.rank == 2 and whole.ground.lora.alpha == 32


def test_settings_stay_as_they_are():
    settings = CollectConfig()
    for name in ("noise", "nois"):
        with pytest.raises(ValidationError):
            setattr(settings, name, 0.5)
    assert get_args(CollectConfig.model_fields["keep"].annotation) == ("successful", "all")
