"""CAT, Cross Attention in Vision Transformer (arXiv 2106.05786), as a classifier and a backbone."""

from cat_model import timm_models  # noqa: F401 - registers cat_tiny, cat_small and cat_base
from cat_model.backbone import CatBackbone
from cat_model.config import CONFIGS, CatConfig
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.weights.fitting import FitReport
from cat_model.weights.layouts import to_ours
from cat_model.weights.load import load_backbone, load_classifier, load_weights, save_classifier
from cat_model.weights.official import load_official_backbone, load_official_classifier
from cat_model.weights.reference import from_reference

__all__ = [
    "CONFIGS",
    "Cat",
    "CatBackbone",
    "CatConfig",
    "FitReport",
    "WeightsError",
    "from_reference",
    "load_backbone",
    "load_classifier",
    "load_official_backbone",
    "load_official_classifier",
    "load_weights",
    "save_classifier",
    "to_ours",
]
