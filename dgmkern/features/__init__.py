"""Feature extractors, uint8 images [N, C, H, W] to features [N, D], for the distances of `dgmkern.metrics`."""

from .classifier import Classifier, ClassifierFeatures
from .comparison import Side, caveats, read_side
from .extractor import ExtractorError, FeatureExtractor
from .inception import InceptionFeatures
from .load import NAMES, load_extractor
from .module import ModuleFeatures
from .pixels import PixelFeatures
from .source import data_set_name, features_of, open_source
from .training import trained_classifier

__all__ = [
    "NAMES",
    "Classifier",
    "ClassifierFeatures",
    "ExtractorError",
    "FeatureExtractor",
    "InceptionFeatures",
    "ModuleFeatures",
    "PixelFeatures",
    "Side",
    "caveats",
    "data_set_name",
    "features_of",
    "load_extractor",
    "open_source",
    "read_side",
    "trained_classifier",
]
