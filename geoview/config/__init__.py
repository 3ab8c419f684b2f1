"""One dataclass a command: the YAML schema and the flags come from these fields, their help from these docstrings.

Imports nothing heavy, so that `--help` stays quick. Units are in the names.
"""

from geoview.config.index import AddConfig, BuildConfig, CalibrateConfig, RemoveConfig, TuneConfig
from geoview.config.inference import InferenceConfig
from geoview.config.jobs import BenchmarkConfig, JobConfig, PublishedConfig, ScoredConfig
from geoview.config.locate import Dates, EvaluateConfig, LocateConfig, ServeConfig
from geoview.config.mappings import differing_keys, from_mapping, merged
from geoview.config.render import DemoConfig, RenderDatasetConfig, RenderPhotosConfig, RenderRegionConfig
from geoview.config.training import (
    AugmentConfig,
    ConditionsConfig,
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    PrototypesConfig,
    TrainConfig,
)
from geoview.config.views import AerialView, GroundView, PlanView, Seen, ViewSpec

__all__ = [
    "AddConfig",
    "AerialView",
    "AugmentConfig",
    "BenchmarkConfig",
    "BuildConfig",
    "CalibrateConfig",
    "ConditionsConfig",
    "DataConfig",
    "Dates",
    "DemoConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "GroundView",
    "InferenceConfig",
    "JobConfig",
    "LocateConfig",
    "OptimiserConfig",
    "PlanView",
    "PrototypesConfig",
    "PublishedConfig",
    "RemoveConfig",
    "RenderDatasetConfig",
    "RenderPhotosConfig",
    "RenderRegionConfig",
    "ScoredConfig",
    "Seen",
    "ServeConfig",
    "TrainConfig",
    "TuneConfig",
    "ViewSpec",
    "differing_keys",
    "from_mapping",
    "merged",
]
