"""Figures of generative models: distances of features, coverage, scores, likelihoods; all in fp64.

They start from features, logits, samples or log-weights as tensors; networks that make them are not here.
"""

from .feature_stats import FeatureStats
from .frechet_bias import frechet_bias
from .frechet_distance import FrechetDistance, FrechetDistanceResult, frechet_distance
from .frechet_infinity import FrechetInfinityResult, frechet_distance_infinity
from .inception_score import InceptionScore, InceptionScoreResult, inception_score
from .kernel_distance import KernelDistance, KernelDistanceResult, kernel_distance
from .latent import (
    ActiveUnits,
    ImportanceWeightedNLL,
    MutualInformation,
    active_units,
    bits_per_dim,
    importance_weighted_nll,
    mutual_information,
)
from .mode_coverage import ClassCoverageResult, ModeCoverage, ModeCoverageResult, class_coverage
from .precision_recall import PrecisionRecall, PrecisionRecallResult, precision_recall

__all__ = [
    "ActiveUnits",
    "ClassCoverageResult",
    "FeatureStats",
    "FrechetDistance",
    "FrechetDistanceResult",
    "FrechetInfinityResult",
    "ImportanceWeightedNLL",
    "InceptionScore",
    "InceptionScoreResult",
    "KernelDistance",
    "KernelDistanceResult",
    "ModeCoverage",
    "ModeCoverageResult",
    "MutualInformation",
    "PrecisionRecall",
    "PrecisionRecallResult",
    "active_units",
    "bits_per_dim",
    "class_coverage",
    "frechet_bias",
    "frechet_distance",
    "frechet_distance_infinity",
    "importance_weighted_nll",
    "inception_score",
    "kernel_distance",
    "mutual_information",
    "precision_recall",
]
