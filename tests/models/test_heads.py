"""Heads: what they tell apart that a mean does not, and that what a picture does not show says nothing."""

import pytest
import torch
from torch import nn

from geoview.config import AerialView, EncoderConfig, PlanView
from geoview.errors import EncoderError
from geoview.models.encoder import CrossViewEncoder
from geoview.models.heads import AttentionHead, GridHead, make_head

torch.set_num_threads(2)

TINY = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
INSIDE, SEEN = torch.ones(2, 1, 96, 96), "ground"


def made(kind, size=4, channels=8):
    torch.manual_seed(0)
    return make_head(kind, channels, size).eval()


def features(h=3, w=3, channels=8):
    return torch.randn(2, channels, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "dim"), [("grid", 36), ("attention", 8)])
@pytest.mark.parametrize(("h", "w"), [(3, 3), (6, 6), (4, 24), (1, 1), (2, 5)])
def test_any_map_becomes_a_vector_of_one_length(kind, dim, h, w):
    head = made(kind)
    assert head.dim == dim
    assert head(features(h, w), INSIDE, SEEN).shape == (2, dim)


def test_a_grid_tells_a_turned_picture_from_itself_and_a_mean_does_not():
    x = features()
    turned = torch.rot90(x, 1, (2, 3))
    torch.testing.assert_close(x.mean((2, 3)), turned.mean((2, 3)))
    head = made("grid")
    assert (head(x, INSIDE, SEEN) - head(turned, INSIDE, SEEN)).abs().max() > 0.1


def test_the_squares_of_a_grid_lie_side_by_side():
    x = features()
    head = made("grid")
    other = x.clone()
    other[:, 0, 2, 0] += 3.0  # the lower left one
    differs = (head(x, INSIDE, SEEN) - head(other, INSIDE, SEEN)).abs().view(2, 3, 3, 4).amax(dim=-1) > 1e-6
    assert differs.nonzero().tolist() == [[0, 2, 0], [1, 2, 0]]


def test_what_is_not_shown_says_nothing_in_a_grid():
    inside = INSIDE.clone()
    inside[:, :, :, :48] = 0  # the left half
    head = made("grid")
    squares = head(features(), inside, SEEN).view(2, 3, 3, 4)
    whole = head(features(), INSIDE, SEEN).view(2, 3, 3, 4)
    assert (squares[:, :, 0] == 0).all()
    torch.testing.assert_close(squares[:, :, 1], whole[:, :, 1] / 2)
    torch.testing.assert_close(squares[:, :, 2], whole[:, :, 2])


def test_squares_of_a_chip_have_one_length_and_those_of_a_photo_their_own():
    inside = INSIDE.clone()
    inside[:, :, :, :48] = 0
    squares = {seen: made("grid")(features(), inside, seen).view(2, 3, 3, 4) for seen in ("aerial", "ground")}
    lengths = {seen: each.norm(dim=-1) for seen, each in squares.items()}
    torch.testing.assert_close(lengths["aerial"], torch.tensor([0.0, 0.5, 1.0]).expand(2, 3, 3))
    assert lengths["ground"][..., 2].std() > 0.1


def test_attention_does_not_look_where_nothing_is_shown():
    inside = INSIDE.clone()
    inside[:, :, :, :32] = 0
    head, x = made("attention"), features()
    hidden = x.clone()
    hidden[..., 0] = 50.0
    torch.testing.assert_close(head(x, inside, SEEN), head(hidden, inside, SEEN), rtol=0, atol=1e-3)
    assert (head(x, INSIDE, SEEN) - head(hidden, INSIDE, SEEN)).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["grid", "attention"])
def test_a_picture_that_shows_nothing_has_a_finite_embedding(kind):
    encoder = CrossViewEncoder(
        "convnext_atto", ground=PlanView(), aerial=AerialView(96, 0.6), backbone_args=TINY, head=kind, head_size=4
    ).eval()
    nothing = torch.zeros(1, 96, 96, dtype=torch.bool)
    assert torch.isfinite(encoder(torch.zeros(1, 3, 96, 96), nothing)).all()


def test_attention_is_a_weighted_mean_of_values():
    head = AttentionHead(8, 4)
    nn.init.zeros_(head.attention.weight)
    nn.init.zeros_(head.attention.bias)
    x = features(2, 5)
    expected = head.value(head.norm(x.flatten(2).mT)).mean(dim=1)
    torch.testing.assert_close(head(x, INSIDE, SEEN), expected)


def test_channels_that_heads_cannot_share_are_refused():
    with pytest.raises(EncoderError, match=r"encoder\.head_size: 8 channels cannot be shared among 3"):
        make_head("attention", 8, 3)
    assert isinstance(make_head("grid", 8, 3), GridHead)


def test_networks_without_a_map_take_no_head():
    views = {"ground": PlanView(), "aerial": AerialView(96, 0.6)}
    with pytest.raises(EncoderError, match="timm's test_vit makes no map of features"):
        CrossViewEncoder("test_vit", **views, backbone_args={"img_size": 96}, head="grid")


# -- in the encoder folder ---------------------------------------------------------------------------------------------

FORMS = [{"head": "grid", "head_size": 4}, {"head": "attention", "head_size": 4}, {"shared": False}]


def encoder(seed=0, **form):
    torch.manual_seed(seed)
    return CrossViewEncoder(
        "convnext_atto", ground=PlanView(), aerial=AerialView(96, 0.6), backbone_args=TINY, **form
    ).eval()


@pytest.mark.parametrize("form", [*FORMS, {"head": "grid", "head_size": 4, "shared": False}])
def test_a_saved_encoder_embeds_as_it_did(form, tmp_path):
    saved = encoder(**form)
    saved.save(tmp_path / "e")
    again = CrossViewEncoder.load(tmp_path / "e")
    assert again.fingerprint() == saved.fingerprint()
    assert again.dim == saved.dim
    x = torch.rand(2, 3, 96, 96) * 255
    for seen in ("ground", "aerial"):
        assert torch.equal(again(x, seen=seen), saved(x, seen=seen))
    # Another form of the same weights, or other weights of a part, are another encoder.
    prints = {encoder(**each).fingerprint() for each in (*FORMS, {})} | {encoder(1, **form).fingerprint()}
    assert len(prints) == 5


def test_weights_of_their_own_make_street_photos_other_vectors():
    x = torch.rand(2, 3, 96, 96) * 255
    own, shared = encoder(shared=False), encoder()
    assert not torch.allclose(own(x, seen="ground"), own(x, seen="aerial"))
    assert torch.equal(shared(x, seen="ground"), shared(x, seen="aerial"))


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_written_over_keeps_no_part_of_the_other(form, tmp_path):
    encoder(**form).save(tmp_path / "e")
    encoder().save(tmp_path / "e", overwrite=True)
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert names == {"config.json", "geoview.json", "model.safetensors"}
    assert CrossViewEncoder.load(tmp_path / "e").fingerprint() == encoder().fingerprint()


@pytest.mark.parametrize(("form", "name"), [(FORMS[0], "head.safetensors"), (FORMS[2], "ground.safetensors")])
def test_a_part_that_is_missing_or_damaged_is_named(form, name, tmp_path):
    encoder(**form).save(tmp_path / "e")
    whole = (tmp_path / "e" / name).read_bytes()
    (tmp_path / "e" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncoderError, match=rf"{name}: cannot be read"):
        CrossViewEncoder.load(tmp_path / "e")
    (tmp_path / "e" / name).unlink()
    with pytest.raises(EncoderError, match=name):
        CrossViewEncoder.load(tmp_path / "e")


def test_training_starts_from_all_parts_of_a_folder_and_from_a_plain_backbone(tmp_path):
    form = {"head": "grid", "head_size": 4, "shared": False}
    start = encoder(3, **form)
    start.save(tmp_path / "whole")
    encoder(4).save(tmp_path / "plain")

    def begun(weights):
        weights = str(tmp_path / weights)
        return CrossViewEncoder.from_config(
            EncoderConfig("convnext_atto", TINY, weights, plan=PlanView(), aerial=AerialView(96, 0.6), **form)
        )

    assert begun("whole").fingerprint() == begun("whole/model.safetensors").fingerprint() == start.fingerprint()
    # A head of another form has nothing to give, and is no hindrance.
    for other in ({"head": "attention", "head_size": 4}, {"head": "grid", "head_size": 8}, {}):
        weights = str(tmp_path / "whole" / "model.safetensors")
        other_form = EncoderConfig("convnext_atto", TINY, weights, aerial=AerialView(96, 0.6), **other)
        state = CrossViewEncoder.from_config(other_form).backbone.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in start.backbone.state_dict().items())
    plain = begun("plain")
    for own in (plain.backbone, plain.ground_backbone):
        state = encoder(4).backbone.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in own.state_dict().items())
