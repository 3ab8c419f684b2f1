"""One timm backbone that embeds street photos and aerial chips into the same space, and its folder on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from geoview.config import AerialView, EncoderConfig, GroundView, PlanView, Seen
from geoview.errors import EncoderError, OutputExistsError, UnsafeFileError
from geoview.files import write_binary, write_json
from geoview.models.depthwise import with_fast_gradients
from geoview.models.heads import make_head
from geoview.models.weights import backbone_state, logit_scale, read_state_dict

__all__ = ["NOTES_FILE", "CrossViewEncoder", "files_beside", "find_encoder"]

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
#: What an encoder folder tells of itself.
NOTES_FILE = "geoview.json"
_PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
# What ImageNet backbones were trained with; a backbone trained from scratch has to be given some constants too.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class CrossViewEncoder(nn.Module):
    """A timm backbone shared by both views; its pooled features, L2-normalised, are the embedding.

    Sharing all weights and pooling without a head follows Sample4Geo (Deuser et al., ICCV 2023). A head and weights of
    their own for street photos are options.

    Attributes:
        backbone: The timm model, without classifier.
        ground_backbone: Another of its kind for street photos, where weights are not shared.
        head: What makes a vector of the features, where it is not their mean.
        ground: Geometry of a street photo as the encoder sees it.
        aerial: Geometry of a chip as the encoder sees it.
        form: `head`, `head_size` and `shared`, as `EncoderConfig` has them.
        notes: What `geoview.json` tells besides the views: logit scale, training data, metrics.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        *,
        ground: GroundView | PlanView,
        aerial: AerialView,
        backbone_args: Mapping[str, Any] | None = None,
        colour: Literal["dataset", "picture"] = "dataset",
        head: Literal["mean", "grid", "attention"] = "mean",
        head_size: int = 64,
        shared: bool = True,
        mean: tuple[float, ...] = _MEAN,
        std: tuple[float, ...] = _STD,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes an encoder with random weights.

        Args:
            backbone: Name of a timm model.
            ground: View of the street photos.
            aerial: View of the chips.
            backbone_args: Further arguments of the timm model.
            colour: `dataset` scales pictures by `mean` and `std`, `picture` each by its own valid pixels.
            head: As `EncoderConfig` has it.
            head_size: As `EncoderConfig` has it.
            shared: As `EncoderConfig` has it.
            mean: Colour mean in [0, 1] that pictures are centred on.
            std: Colour deviation in [0, 1] that pictures are scaled by.
            notes: Further content of `geoview.json`.

        Raises:
            EncoderError: timm does not know the model, or does not take the arguments.
        """
        super().__init__()
        args = dict(backbone_args or {})
        self.backbone = _timm_model(backbone, args)
        self.ground_backbone = None if shared else _timm_model(backbone, args)
        self.head = None if head == "mean" else make_head(head, cast(int, self.backbone.num_features), head_size)
        if self.head is not None:
            _check_map(self.backbone, backbone)
        self.architecture = backbone
        self.backbone_args = args
        self.colour = colour
        self.form: dict[str, Any] = {"head": head, "head_size": head_size, "shared": shared}
        self.ground = ground
        self.aerial = aerial
        self.notes: dict[str, Any] = dict(notes or {})
        self._scaling = {"mean": list(mean), "std": list(std)}
        # Not part of the state dict: the weights file holds plain timm keys only.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    @classmethod
    def from_config(cls, config: EncoderConfig) -> Self:
        """Makes the encoder that a training run starts from.

        Args:
            config: Architecture, views and the weights to start from.

        Returns:
            The encoder, with the weights of `config.pretrained` or random ones.

        Raises:
            EncoderError: The weights do not fit the architecture; names the first keys that do not.
            UnsafeFileError: The weights file holds more than tensors.
        """
        encoder = cls(
            config.backbone,
            ground=config.street,
            aerial=config.aerial,
            backbone_args=config.backbone_args,
            colour=config.colour,
            head=config.head,
            head_size=config.head_size,
            shared=config.shared,
        )
        if config.pretrained is not None:
            given = Path(config.pretrained)
            path = given / _WEIGHTS["backbone"] if given.is_dir() else given
            state = read_state_dict(path)
            for name, part in encoder._parts().items():
                # A folder of geoview has a file a part; of other weights, and of a head they never had, there is less.
                beside = path.with_name(_WEIGHTS[name])
                if name == "backbone" or (name == "ground_backbone" and not beside.exists()):
                    _load(part, backbone_state(state), encoder.architecture, source=config.pretrained)
                elif name == "ground_backbone" or encoder._has_the_head_of(path.with_name(NOTES_FILE)):
                    _load(part, load_file(beside), encoder.architecture, source=str(beside))
            scale = logit_scale(state)
            if scale is not None:
                encoder.notes["logit_scale"] = scale
        return encoder

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(cast(int, self.backbone.num_features if self.head is None else self.head.dim))

    def forward(self, pixels: Tensor, valid: Tensor | None = None, *, seen: Seen = "aerial") -> Tensor:
        """Embeds pictures of one view.

        Args:
            pixels: (B, 3, H, W), uint8 or float in [0, 255].
            valid: (B, H, W) bool; where it is False the picture shows nothing and the mean colour stands in.
            seen: What they are of: weights may differ by it, and a `grid` head weighs the squares of chips evenly.

        Returns:
            (B, dim) float32 of unit norm.
        """
        x, inside = self._scaled(pixels, valid)
        backbone = self._backbone_of(seen)
        features = backbone(x) if self.head is None else self.head(_features(backbone, x), inside, seen)
        # Norms and inner products in float32 whatever the network ran in: bfloat16 has 8 bits of mantissa.
        return F.normalize(features.float(), dim=-1)

    def parts(self, pixels: Tensor, valid: Tensor | None = None, *, seen: Seen = "aerial") -> Tensor:
        """Splits embeddings by the places in the picture that they come from, exactly: their sum is the embedding.

        The parts are those of the last map of features: of the `grid` head its squares, of the `attention` head what
        its weights let through at each position, of the mean each position as the norm behind the mean scales it.
        A position has seen more of the picture than lies under it.

        Args:
            pixels: As `forward` has them.
            valid: As `forward` has it.
            seen: As `forward` has it.

        Returns:
            (B, h, w, dim) float32.

        Raises:
            EncoderError: What the backbone makes of its features is no sum over a map.
        """
        x, inside = self._scaled(pixels, valid)
        backbone = self._backbone_of(seen)
        features = _features(backbone, x)
        if self.head is None:
            parts = _parts_of_mean(backbone, features, self.architecture)
        else:
            parts = self.head.parts(features, inside, seen)
        parts = parts.float()
        scaled: Tensor = parts / parts.sum(dim=(1, 2), keepdim=True).norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return scaled

    def _scaled(self, pixels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns pictures as the backbone takes them, and (B, 1, H, W), 1 where they show something."""
        x = pixels.to(self.mean.dtype)
        inside = torch.ones_like(x[:, :1]) if valid is None else valid.unsqueeze(1).to(x.dtype)
        x = _by_picture(x, inside) if self.colour == "picture" else (x - self.mean) / self.std
        return x * inside, inside

    def _backbone_of(self, seen: Seen) -> nn.Module:
        return self.backbone if self.ground_backbone is None or seen == "aerial" else self.ground_backbone

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any weight, the architecture or the geometry of a view."""
        digest = hashlib.sha256()
        digest.update(json.dumps(self._identity(), sort_keys=True).encode())
        for part in self._parts().values():
            for key, tensor in sorted(part.state_dict().items()):
                digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path, *, overwrite: bool = False, dtype: torch.dtype = torch.float32) -> Path:
        """Writes the folder: `config.json` and `model.safetensors` in timm's layout, `geoview.json` beside them.

        A head, and weights that street photos have of their own, are in `head.safetensors` and `ground.safetensors`.

        Args:
            folder: Folder to write. timm opens it as `local-dir:FOLDER`.
            overwrite: Write over an encoder that is there.
            dtype: Type of the weights in the file; the encoder in memory is rounded to it, so that both are the same.

        Returns:
            The folder.

        Raises:
            OutputExistsError: An encoder is there and `overwrite` is off.
        """
        folder = Path(folder)
        if (folder / "config.json").exists() and not overwrite:
            raise OutputExistsError(f"{folder}: an encoder is there already; choose another folder or --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        parts = self._parts()
        for name, path in _WEIGHTS.items():
            if name not in parts:
                (folder / path).unlink(missing_ok=True)
                continue
            parts[name].to(dtype).to(torch.float32)
            state = {key: t.detach().cpu().to(dtype).contiguous() for key, t in parts[name].state_dict().items()}
            with write_binary(folder / path) as file:
                file.write(to_safetensors(state, metadata={"format": "pt"}))
        write_json(
            folder / "config.json",
            {
                "architecture": self.architecture,
                "num_classes": 0,
                "num_features": self.dim,
                "model_args": self.backbone_args,
                "pretrained_cfg": {
                    "input_size": [3, self.aerial.size_px, self.aerial.size_px],
                    **self._scaling,
                    "num_classes": 0,
                },
            },
        )
        write_json(
            folder / NOTES_FILE,
            {
                "format_version": FORMAT_VERSION,
                "colour": self.colour,
                **self.form,
                "views": {"ground": asdict(self.ground), "aerial": asdict(self.aerial)},
                "fingerprint": self.fingerprint(),
                **self.notes,
            },
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Opens an encoder folder.

        Args:
            folder: As written by `save`, or the name of a shipped encoder.

        Returns:
            The encoder, in evaluation mode, on the CPU.

        Raises:
            EncoderError: A file is missing or malformed, or the weights do not fit.
            UnsafeFileError: The folder holds a pickle.
        """
        folder = find_encoder(folder)
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLE_SUFFIXES)
        if pickles:
            raise UnsafeFileError(
                f"{folder}: holds {pickles[0]}, a pickle that could run code; an encoder folder is config.json, "
                "model.safetensors and geoview.json: remove it, or convert it with `geoview train --encoder.pretrained`"
            )
        config, extras = _read_json(folder / "config.json"), _read_json(folder / NOTES_FILE)
        version = extras.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise EncoderError(
                f"{folder}/geoview.json: format_version is {version}, this geoview reads {FORMAT_VERSION}; "
                "open it with the one that wrote it, or go on from it with `geoview train --encoder.pretrained`"
            )
        try:
            views = extras.pop("views")
            scaling = config["pretrained_cfg"]
            encoder = cls(
                config["architecture"],
                ground=(PlanView if "gsd_m" in views["ground"] else GroundView)(**views["ground"]),
                aerial=AerialView(**views["aerial"]),
                backbone_args=config["model_args"],
                colour=extras.pop("colour"),
                **{name: extras.pop(name) for name in ("head", "head_size", "shared") if name in extras},
                mean=tuple(scaling["mean"]),
                std=tuple(scaling["std"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise EncoderError(f"{folder}: config.json or geoview.json is incomplete or wrong: {error}") from error
        for name, part in encoder._parts().items():
            path = folder / _WEIGHTS[name]
            try:
                state = load_file(path)
            except (OSError, SafetensorError) as error:
                raise EncoderError(f"{path}: cannot be read ({error}); copy the folder anew") from error
            _load(part, state, encoder.architecture, source=str(path))
        expected = extras.pop("fingerprint", None)
        if expected is not None and expected != encoder.fingerprint():
            raise EncoderError(f"{folder}: weights or views are not those that were saved (fingerprint); copy it anew")
        encoder.notes = extras
        return encoder.eval()

    def _has_the_head_of(self, path: Path) -> bool:
        """Tells whether an encoder folder has a head of the same form; another's weights mean nothing to it."""
        form = _read_json(path) if path.exists() else {}
        return all(form.get(name) == self.form[name] for name in ("head", "head_size"))

    def _parts(self) -> dict[str, nn.Module]:
        """The parts that have weights, by the names of `_WEIGHTS`."""
        parts = {"backbone": self.backbone, "ground_backbone": self.ground_backbone, "head": self.head}
        return {name: part for name, part in parts.items() if part is not None}

    def _identity(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture,
            "backbone_args": self.backbone_args,
            "colour": self.colour,
            **self.form,
            "views": [asdict(self.ground), asdict(self.aerial)],
            **{name: [round(v * 255, 3) for v in values] for name, values in self._scaling.items()},
        }


# A part's file in an encoder folder.
_WEIGHTS = {"backbone": "model.safetensors", "ground_backbone": "ground.safetensors", "head": "head.safetensors"}


def _timm_model(name: str, args: dict[str, Any]) -> nn.Module:
    # Takes longer to load than many a command takes that makes no network.
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise EncoderError(f"timm has no model {name!r}; near are {', '.join(near) or 'none'}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **args)
    except (TypeError, ValueError, LookupError, RuntimeError, AssertionError) as error:
        raise EncoderError(f"timm model {name!r} does not take {args}: {error}") from error
    return with_fast_gradients(model)


def _features(backbone: nn.Module, x: Tensor) -> Tensor:
    features: Tensor = cast(Any, backbone).forward_features(x)
    return features


def _parts_of_mean(backbone: nn.Module, features: Tensor, name: str) -> Tensor:
    """Splits what timm pools, the mean and in some networks a norm behind it, by position: (B, h, w, channels)."""
    pooled = cast(Any, backbone).forward_head(features, pre_logits=True)
    if features.ndim == 4:
        parts = features.permute(0, 2, 3, 1) / (features.shape[2] * features.shape[3])
        norm = getattr(getattr(backbone, "head", None), "norm", None)
        if isinstance(norm, nn.LayerNorm):
            # With the deviation of the whole, which all positions share, the norm is linear but for its bias.
            variance = features.mean(dim=(2, 3)).var(dim=1, correction=0)
            scale = (variance + norm.eps).rsqrt().view(-1, 1, 1, 1)
            parts = (parts - parts.mean(dim=-1, keepdim=True)) * scale * norm.weight
            parts = parts + norm.bias / (features.shape[2] * features.shape[3])
        if parts.shape[-1] == pooled.shape[-1] and torch.allclose(parts.sum(dim=(1, 2)), pooled, rtol=1e-3, atol=1e-4):
            return parts
    raise EncoderError(f"{name}: its embedding is no sum over a map of features, so no part of a picture can be named")


def _check_map(backbone: nn.Module, name: str) -> None:
    """Refuses networks whose features are no map."""
    with torch.inference_mode():
        try:
            shape = _features(backbone.eval(), torch.zeros(1, 3, 96, 96)).shape
        except (AssertionError, RuntimeError):
            shape = torch.Size()
    backbone.train()
    if len(shape) != 4 or shape[1] != backbone.num_features:
        raise EncoderError(
            f"encoder.head: timm's {name} makes no map of features for a head to look at; leave encoder.head out"
        )


def _load(part: nn.Module, found: Mapping[str, Tensor], architecture: str, *, source: str) -> None:
    wanted = part.state_dict()
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    unlike = sorted(k for k in wanted.keys() & found.keys() if wanted[k].shape != found[k].shape)
    if missing or unexpected or unlike:
        raise EncoderError(
            f"{source}: weights do not fit {architecture}: {len(missing)} keys missing{_first(missing)}, "
            f"{len(unexpected)} unexpected{_first(unexpected)}, {len(unlike)} of another shape{_first(unlike)}"
        )
    part.load_state_dict(found)


def _by_picture(x: Tensor, inside: Tensor) -> Tensor:
    """Centres each channel of each picture and scales the picture to unit deviation, by its valid pixels."""
    count = inside.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    centred = (x - (x * inside).sum(dim=(2, 3), keepdim=True) / count) * inside
    variance = centred.square().sum(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True) / count
    # A few grey levels: an empty picture must not be blown up to noise.
    return centred / (variance + 2.5**2).sqrt()


def find_encoder(name: str | Path) -> Path:
    """Returns the folder of an encoder given by its path or by the name of a shipped one.

    Raises:
        EncoderError: There is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    shipped = Path(__file__).parents[1] / "encoders"
    names = sorted(p.name for p in shipped.iterdir()) if shipped.is_dir() else []
    if str(name) in names:
        return shipped / str(name)
    raise EncoderError(f"{name}: no such encoder folder; shipped encoders: {', '.join(names) or 'none'}")


def files_beside(notes: Path) -> list[str]:
    """Returns the names of the other files of an encoder folder, by what its `geoview.json` says.

    Raises:
        EncoderError: It cannot be read.
    """
    said = _read_json(notes)
    lacking = {"ground_backbone": said.get("shared", True), "head": said.get("head", "mean") == "mean"}
    return ["config.json", *(path for part, path in _WEIGHTS.items() if not lacking.get(part))]


def _first(keys: list[str]) -> str:
    return f" (first {keys[0]!r})" if keys else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EncoderError(f"{path.parent}: not an encoder folder, {path.name} is missing") from error
    except (ValueError, OSError) as error:
        raise EncoderError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path}: must hold a JSON object")
    return content
