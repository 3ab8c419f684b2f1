import pickle
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from geoview.config import AerialView, EncoderConfig, GroundView
from geoview.errors import EncoderError, UnsafeFileError
from geoview.models import CrossViewEncoder
from geoview.models.weights import backbone_state, logit_scale, read_state_dict

torch.set_num_threads(2)

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

STATE = {"stem.0.weight": torch.arange(6.0).view(2, 3), "head.norm.bias": torch.ones(2)}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def same(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"epoch": 3, "model": s}])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_saved(tmp_path, wrapped, zipped):
    path = tmp_path / "weights.pth"
    torch.save(wrapped(STATE), path, _use_new_zipfile_serialization=zipped)
    same(read_state_dict(path), STATE)


def test_reads_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    same(read_state_dict(path), STATE)


@pytest.mark.parametrize("dump", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("place", [lambda b: b, lambda b: {"state_dict": STATE, "extra": b}, lambda b: [STATE, b]])
def test_a_pickled_object_is_refused_and_its_code_does_not_run(tmp_path, dump, place):
    path, mark = tmp_path / "weights.pth", tmp_path / "it ran"
    dump(place(Bomb(mark)), path)
    with pytest.raises(UnsafeFileError, match=rf"{path}: holds more than tensors and could run code"):
        read_state_dict(path)
    assert not mark.exists()
    # The trap is a real one.
    torch.load(path, weights_only=False) if dump is torch.save else pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_any_protocol_are_refused_without_running(tmp_path, protocol):
    path, mark = tmp_path / "weights.pth", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Bomb(mark), protocol))
    with pytest.raises(EncoderError, match=str(path)):
        read_state_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(EncoderError, match=rf"{tmp_path}/{name}: no such weights file"):
        read_state_dict(tmp_path / name)
    with pytest.raises(EncoderError, match="no such weights file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", b"a,b\n1,2\n", b"<html></html>", b"\x89PNG\r\n", bytes(99)])
def test_another_file_is_no_weights_file_and_no_danger(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EncoderError, match=rf"{name}: not a weights file") as caught:
        read_state_dict(tmp_path / name)
    assert type(caught.value) is EncoderError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path, zipped, share):
    path = tmp_path / "weights.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EncoderError, match=str(path)):
        read_state_dict(path)


@given(st.binary(max_size=80), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04"]))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_an_error_of_ours(tmp_path_factory, content, head):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(head + content)
    with pytest.raises(EncoderError, match=str(path)):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content", [torch.ones(3), [torch.ones(3)], {}, {"a": 1}, {"state_dict": {}}, {"lr": 0.1} | STATE]
)
def test_tensors_that_are_no_state_dict_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(EncoderError, match=rf"{path}: holds no state dict"):
        read_state_dict(path)


# -- keys --------------------------------------------------------------------------------------------------------------

PREFIXES = ["module.", "_orig_mod.", "encoder.", "backbone.", "model."]


@given(st.lists(st.sampled_from(PREFIXES), max_size=4))
def test_wrappers_are_taken_off_in_any_order(prefixes):
    prefix = "".join(prefixes)
    wrapped = {prefix + key: tensor for key, tensor in STATE.items()} | {prefix + "logit_scale": torch.tensor(2.5)}
    same(backbone_state(wrapped), STATE)
    assert logit_scale(wrapped) == 2.5


def test_the_published_layout():
    published = {f"model.{key}": tensor for key, tensor in STATE.items()}
    published |= {"logit_scale": torch.tensor(3.25), "model.head.fc.weight": torch.ones(5, 2)}
    same(backbone_state(published), STATE)
    assert logit_scale(published) == 3.25
    assert logit_scale(STATE) is None


def test_words_inside_a_key_are_no_wrappers():
    state = {"stages.0.model.weight": torch.ones(1), "encoder_norm.weight": torch.ones(1)}
    same(backbone_state(state), state)


def test_temperatures_of_attention_belong_to_the_backbone():
    state = {"layers.0.attn.logit_scale": torch.ones(3, 1, 1)}
    same(backbone_state(state), state)
    assert logit_scale(state) is None


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "vit_tiny_patch16_224", "efficientnet_b0"])
def test_weights_of_a_classifier_fit_without_it(tmp_path, name):
    state = timm.create_model(name, num_classes=10).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    config = EncoderConfig(
        backbone=name,
        pretrained=str(tmp_path / "weights.safetensors"),
        ground=GroundView(width_px=64, height_px=32),
        aerial=AerialView(size_px=32),
    )
    loaded = CrossViewEncoder.from_config(config).backbone.state_dict()
    assert loaded.keys() < state.keys()
    same(loaded, {key: state[key] for key in loaded})
