from .feature_stats import FeatureStats

__all__ = ["FeatureStats"]
