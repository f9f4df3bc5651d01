"""Editors of the page keep to one contract: the real one, one whose card is lent, and the tests' stand-in."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from serving import StandIn
from torch import nn

from gra_core.constants import STYLE_DIM
from gra_core.errors import StrengthError, UnknownEditError
from gra_core.ui import gpu
from gra_core.ui.app_state import EditorInterface


@pytest.fixture(params=["alone", "lent", "stand-in"])
def any_editor(request, monkeypatch) -> EditorInterface:
    if request.param == "stand-in":
        return StandIn()
    editor = request.getfixturevalue("editor")
    if request.param == "alone":
        return editor

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=lambda **_options: lambda function: function))
    return gpu.LoanedEditor(editor, device="cpu")


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() == other.tobytes()


def test_editors_keep_to_the_contract(any_editor, face):
    assert any_editor.average_code.shape == (STYLE_DIM,)
    assert any_editor.average_code.dtype == np.float32
    assert isinstance(any_editor.generator, nn.Module)
    assert {"smile", "age"} <= any_editor.edits.keys()

    inversion = any_editor.invert(face, lambda: None)
    output = any_editor.render(inversion, {"smile": 40})
    assert output.image.mode == "RGB"
    assert output.image.width == output.image.height
    assert output.flow.shape == (*output.flow.shape[:1] * 2, 2)
    assert output.flow.dtype == output.keep.dtype == np.float32
    assert output.keep.shape == output.keep.shape[:1] * 2
    assert 0 <= output.keep.min() <= output.keep.max() <= 1

    untouched = any_editor.render(inversion, {}).image
    assert not same(output.image, untouched)
    assert same(any_editor.render(inversion, {"smile": 0.0}).image, untouched)
    assert same(any_editor.render(inversion, {"smile": 40}).image, output.image)  # edits leave no trace
    own = any_editor.edits | {"own": replace(any_editor.edits["smile"], key="own", group="Your own")}
    assert not same(any_editor.render(inversion, {"own": 40}, own).image, untouched)
    with pytest.raises(UnknownEditError):
        any_editor.render(inversion, {"own": 40})
    with pytest.raises(StrengthError):
        any_editor.render(inversion, {"smile": 1000.0})
