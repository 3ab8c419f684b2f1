import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from geoview.config import AerialView, EncoderConfig, GroundView
from geoview.errors import ConfigError, EncoderError, OutputExistsError, UnsafeFileError
from geoview.models import CrossViewEncoder
from geoview.models import encoder as module
from geoview.models.encoder import find_encoder

torch.set_num_threads(2)

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]}
GROUND, AERIAL = GroundView(width_px=64, height_px=32), AerialView(size_px=48, gsd_m=0.5)


def make(seed=0, **options):
    torch.manual_seed(seed)
    options = {"ground": GROUND, "aerial": AERIAL, "backbone_args": SMALL} | options
    encoder = CrossViewEncoder("convnext_atto", **options).eval()
    with torch.no_grad():
        # timm starts the residual branches near zero: nothing would depend on anything.
        for name, parameter in encoder.named_parameters():
            drawn = torch.randn_like(parameter)
            parameter.copy_(drawn * 0.3 if parameter.ndim > 1 else drawn * 0.1 + (not name.endswith("bias")))
    return encoder


def pictures(n=3, height=48, width=48, seed=0):
    return torch.randint(0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module", params=["dataset", "picture"])
def encoder(request):
    return make(colour=request.param)


@pytest.fixture
def folder(tmp_path):
    return make().save(tmp_path / "encoder")


def edited(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


# -- embeddings --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_embeds_any_size_to_unit_vectors_with_the_same_weights(encoder):
    for height, width in [(48, 48), (32, 64), (32, 96), (40, 33)]:
        vectors = encoder(pictures(2, height, width))
        assert vectors.shape == (2, encoder.dim) == (2, 64)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in encoder.backbone.parameters())


@torch.inference_mode()
@pytest.mark.parametrize(
    "options", [{}, {"head": "grid", "head_size": 4}, {"head": "attention", "head_size": 4}, {"shared": False}]
)
@pytest.mark.parametrize("colour", ["dataset", "picture"])
def test_parts_add_up_to_the_embedding(options, colour):
    encoder, batch = make(colour=colour, **options), pictures(2, 64, 96)
    valid = torch.ones(2, 64, 96, dtype=torch.bool)
    valid[1, :, :40] = False
    for seen in ("ground", "aerial"):
        parts = encoder.parts(batch, valid, seen=seen)
        assert parts.shape == (2, 3 if options.get("head") == "grid" else 2, 3, encoder.dim)
        torch.testing.assert_close(parts.sum(dim=(1, 2)), encoder(batch, valid, seen=seen), atol=1e-5, rtol=1e-4)
        assert parts.std(dim=(1, 2)).max() > 1e-3, "some say more than others"


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_parts_of_other_families(name):
    encoder, batch = make_named(name).eval(), pictures(1, 64, 64)
    torch.testing.assert_close(encoder.parts(batch).sum(dim=(1, 2)), encoder(batch), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_what_has_no_map_of_features_has_no_parts():
    encoder = CrossViewEncoder("test_vit", ground=GROUND, aerial=AERIAL, backbone_args={"img_size": 96}).eval()
    with pytest.raises(EncoderError, match="test_vit: its embedding is no sum"):
        encoder.parts(pictures(1, 96, 96))


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_see_one_another(encoder):
    batch = pictures(3)
    for i, vector in enumerate(encoder(batch)):
        torch.testing.assert_close(vector, encoder(batch[i : i + 1])[0], rtol=1e-4, atol=1e-5)
    assert (encoder(batch) @ encoder(batch).T).triu(1).max() < 0.999


@torch.inference_mode()
def test_floats_up_to_255_are_the_same_as_bytes(encoder):
    torch.testing.assert_close(encoder(pictures().float()), encoder(pictures()))


@torch.inference_mode()
def test_what_is_not_valid_is_not_seen(encoder):
    batch, valid = pictures(2), torch.ones(2, 48, 48, dtype=torch.bool)
    valid[:, :, 30:] = False
    other = torch.where(valid[:, None], batch, 255 - batch)
    torch.testing.assert_close(encoder(batch, valid), encoder(other, valid))
    assert not torch.allclose(encoder(batch), encoder(other), atol=1e-2)
    assert not torch.allclose(encoder(batch), encoder(batch, valid), atol=1e-2)
    torch.testing.assert_close(encoder(batch, torch.ones_like(valid)), encoder(batch))


@torch.inference_mode()
def test_where_nothing_is_valid_the_mean_colour_stands_in():
    encoder, batch, nothing = make(), pictures(1), torch.zeros(1, 48, 48, dtype=torch.bool)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 48, 48) * 255
    torch.testing.assert_close(encoder(batch, nothing), encoder(mean), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_colour_by_picture_takes_out_gain_and_offset():
    batch = pictures(2).float() * 0.4 + 50
    warmer = batch * 1.4 + torch.tensor([5.0, 0.0, -9.0]).view(1, 3, 1, 1)
    by_picture, by_dataset = make(colour="picture"), make(colour="dataset")
    torch.testing.assert_close(by_picture(warmer), by_picture(batch), rtol=0, atol=0.02)
    assert (by_dataset(warmer) - by_dataset(batch)).abs().max() > 0.04


@torch.inference_mode()
def test_an_empty_picture_is_finite(encoder):
    nothing = torch.zeros(2, 48, 48, dtype=torch.bool)
    for batch in (torch.zeros(2, 3, 48, 48), torch.full((2, 3, 48, 48), 255.0)):
        assert encoder(batch, nothing).isfinite().all()
        assert encoder(batch).isfinite().all()


@torch.inference_mode()
def test_normalises_in_single_precision_under_autocast(encoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encoder(pictures())
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert (vectors * encoder(pictures())).sum(dim=1).min() > 0.99


# -- the folder --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("colour", ["dataset", "picture"])
def test_what_is_loaded_is_what_was_saved(tmp_path, colour):
    notes = {"logit_scale": 3.5, "training": {"pairs": 7}, "metrics": {}}
    saved = make(colour=colour, notes=notes, mean=(0.1234567891, 0.5, 2 / 3), std=(0.2, 1 / 7, 0.3))
    folder = saved.save(tmp_path / "new" / "encoder")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "geoview.json", "model.safetensors"]
    loaded = CrossViewEncoder.load(folder)
    assert not loaded.training
    assert (loaded.ground, loaded.aerial, loaded.colour, loaded.notes) == (GROUND, AERIAL, colour, notes)
    assert (loaded.architecture, loaded.backbone_args) == ("convnext_atto", SMALL)
    torch.testing.assert_close(loaded(pictures()), saved(pictures()), rtol=0, atol=0)
    assert loaded.fingerprint() == saved.fingerprint()
    again = CrossViewEncoder.load(loaded.save(tmp_path / "again"))
    assert again.fingerprint() == saved.fingerprint()
    for name in ("config.json", "geoview.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@torch.inference_mode()
def test_timm_opens_the_folder(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    encoder, batch = CrossViewEncoder.load(folder), pictures()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    features = nn.functional.normalize(model((batch / 255 - mean) / std), dim=1)
    torch.testing.assert_close(features, encoder(batch), rtol=1e-4, atol=1e-5)


def test_the_weights_have_plain_timm_keys(folder):
    expected = timm.create_model("convnext_atto", num_classes=0, **SMALL).state_dict()
    assert load_file(folder / "model.safetensors").keys() == expected.keys()


def test_nothing_is_overwritten_unasked(folder):
    other = make(seed=1)
    with pytest.raises(OutputExistsError, match=rf"{folder}: an encoder is there already"):
        other.save(folder)
    assert CrossViewEncoder.load(folder).fingerprint() == make().fingerprint() != other.fingerprint()
    other.save(folder, overwrite=True)
    assert CrossViewEncoder.load(folder).fingerprint() == other.fingerprint()


def test_a_full_disk_is_told_and_leaves_the_old_encoder(folder):
    code = """
        import resource, sys
        from geoview.errors import StorageFullError
        from geoview.files import full_disk_told
        from geoview.models import CrossViewEncoder
        encoder = CrossViewEncoder.load(sys.argv[1])
        encoder.backbone.stem[0].bias.data += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            with full_disk_told("here"):
                encoder.save(sys.argv[1], overwrite=True)
        except StorageFullError as error:
            print(error)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True)
    assert told.stdout.startswith("here: disk full"), told.stderr
    assert CrossViewEncoder.load(folder).fingerprint() == make().fingerprint()


# -- fingerprint -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_all_that_makes_embeddings():
    tilted = make()
    with torch.no_grad():
        tilted.backbone.stem[0].bias[3] += 1e-3
    prints = [
        make().fingerprint(),
        tilted.fingerprint(),
        make(ground=GroundView(width_px=96, height_px=32)).fingerprint(),
        make(aerial=AerialView(size_px=48, gsd_m=0.6)).fingerprint(),
        make(colour="picture").fingerprint(),
        make(mean=(0.5, 0.5, 0.5)).fingerprint(),
        make(std=(0.5, 0.5, 0.5)).fingerprint(),
        # The same weights, another network.
        make(backbone_args=SMALL | {"act_layer": "relu"}).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)


def test_the_fingerprint_is_of_nothing_else():
    encoder = make()
    before = encoder.fingerprint()
    encoder.notes["metrics"] = {"recall": 1.0}
    encoder.train().requires_grad_(False)
    encoder(pictures())
    assert encoder.fingerprint() == before == make().fingerprint()


def test_swapped_weights_are_refused(folder, tmp_path):
    other = make(seed=1).save(tmp_path / "other")
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(EncoderError, match=rf"{folder}: weights or views are not those .*fingerprint"):
        CrossViewEncoder.load(folder)


def test_a_view_changed_by_hand_is_refused(folder):
    edited(folder, "geoview.json", lambda c: c["views"]["aerial"].update(gsd_m=0.6))
    with pytest.raises(EncoderError, match="fingerprint"):
        CrossViewEncoder.load(folder)


# -- damaged folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.bin", "model.PT", "a.pth", "a.pkl", "a.pickle", "last.ckpt", "a.joblib"])
def test_a_folder_with_a_pickle_is_refused(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(UnsafeFileError, match=rf"{folder}: holds {name}, a pickle"):
        CrossViewEncoder.load(folder)


@pytest.mark.parametrize("name", ["config.json", "geoview.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=name) as caught:
        CrossViewEncoder.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "geoview.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(EncoderError, match=name) as caught:
        CrossViewEncoder.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "geoview.json"])
@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff\xfe", b'"a"'])
def test_json_that_is_no_object_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(EncoderError, match=name):
        CrossViewEncoder.load(folder)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("config.json", ["architecture"]),
        ("config.json", ["model_args"]),
        ("config.json", ["model_args", "dims"]),
        ("config.json", ["pretrained_cfg"]),
        ("config.json", ["pretrained_cfg", "mean"]),
        ("config.json", ["pretrained_cfg", "std"]),
        ("geoview.json", ["format_version"]),
        ("geoview.json", ["colour"]),
        ("geoview.json", ["views"]),
        ("geoview.json", ["views", "ground"]),
        ("geoview.json", ["views", "aerial"]),
        ("geoview.json", ["views", "aerial", "gsd_m"]),
    ],
)
@pytest.mark.parametrize("value", [None, 3, [1], "x", {"a": 1}, -1])
def test_a_value_that_cannot_be_is_an_error_of_ours(folder, name, path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    edited(folder, name, change)
    with pytest.raises(EncoderError) as caught:
        CrossViewEncoder.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version_is_refused(folder, version):
    edited(folder, "geoview.json", lambda c: c.update(format_version=version))
    with pytest.raises(EncoderError, match=rf"{folder}/geoview.json: format_version is {version}, .* reads 2;"):
        CrossViewEncoder.load(folder)


def test_weights_of_another_architecture_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state["stem.0.weight"] = torch.zeros(4, 3, 4, 4)
    state["extra"] = torch.zeros(1)
    del state["stem.0.bias"], state["stem.1.bias"]
    save_file(state, folder / "model.safetensors")
    message = (
        r"2 keys missing \(first 'stem.0.bias'\), 1 unexpected \(first 'extra'\), "
        r"1 of another shape \(first 'stem.0.weight'\)"
    )
    with pytest.raises(EncoderError, match=message):
        CrossViewEncoder.load(folder)


# -- architectures -----------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_answered_with_near_ones():
    with pytest.raises(EncoderError, match=r"timm has no model 'convnext_atoo'; near are .*convnext"):
        make_named("convnext_atoo")
    with pytest.raises(EncoderError, match="timm has no model 'qqq'; near are none"):
        make_named("qqq")


def make_named(name, **args):
    return CrossViewEncoder(name, ground=GROUND, aerial=AERIAL, backbone_args=args)


@pytest.mark.parametrize(
    "args",
    [
        {"nonsense": 1},
        {"num_classes": 3},
        {"dims": [8, 16]},
        {"depths": "abc"},
        {"dims": [8, 16, 32, -1]},
        {"act_layer": "no-such-layer"},
        {"output_stride": 7},
    ],
)
def test_arguments_that_the_model_does_not_take_are_refused(args):
    with pytest.raises(EncoderError, match=r"timm model 'convnext_atto' does not take \{.*" + next(iter(args))):
        make_named("convnext_atto", **args)


def test_pooled_features_of_another_family():
    encoder = make_named("resnet18").eval()
    with torch.inference_mode():
        assert encoder(pictures(1)).shape == (1, 512) == (1, encoder.dim)
    assert len(encoder.fingerprint()) == 16


# -- starting weights --------------------------------------------------------------------------------------------------


def config(**options):
    return EncoderConfig(
        **{"backbone": "convnext_atto", "backbone_args": SMALL, "ground": GROUND, "aerial": AERIAL} | options
    )


def test_from_config_starts_with_the_given_weights(tmp_path):
    source = make(seed=5)
    state = {f"model.{key}": tensor for key, tensor in source.backbone.state_dict().items()}
    torch.save(state | {"logit_scale": torch.tensor(2.5)}, tmp_path / "weights.pth")
    encoder = CrossViewEncoder.from_config(config(pretrained=str(tmp_path / "weights.pth"), colour="picture"))
    assert encoder.notes == {"logit_scale": 2.5}
    assert encoder.colour == "picture"
    assert (encoder.ground, encoder.aerial) == (GROUND, AERIAL)
    for key, tensor in encoder.backbone.state_dict().items():
        torch.testing.assert_close(tensor, source.backbone.state_dict()[key], rtol=0, atol=0)


def test_from_config_without_weights_is_random():
    torch.manual_seed(1)
    one = CrossViewEncoder.from_config(config())
    assert one.notes == {}
    assert one.fingerprint() != CrossViewEncoder.from_config(config()).fingerprint()


def test_from_config_names_the_first_keys_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"stem.0.weight": torch.zeros(8, 3, 4, 4), "blocks.0": torch.zeros(1)}, path)
    with pytest.raises(EncoderError, match=rf"{path}: weights do not fit convnext_atto: .*first 'head.norm.bias'.*"):
        CrossViewEncoder.from_config(config(pretrained=str(path)))


# -- names -------------------------------------------------------------------------------------------------------------


def test_find_encoder(tmp_path, monkeypatch):
    assert find_encoder(tmp_path) == tmp_path
    assert find_encoder(str(tmp_path)) == tmp_path
    with pytest.raises(EncoderError, match=f"{tmp_path}/none: no such encoder folder; shipped encoders: "):
        find_encoder(tmp_path / "none")
    shipped = tmp_path / "geoview" / "encoders" / "tiny"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "geoview" / "models" / "encoder.py"))
    monkeypatch.chdir(tmp_path)
    assert find_encoder("tiny") == shipped
    with pytest.raises(EncoderError, match="other: no such encoder folder; shipped encoders: tiny"):
        find_encoder("other")
    (tmp_path / "tiny").mkdir()
    assert find_encoder("tiny").resolve() == tmp_path / "tiny"


def test_views_too_small_are_refused_before_they_reach_the_encoder():
    with pytest.raises(ConfigError, match="size_px"):
        make(aerial=AerialView(size_px=8))
