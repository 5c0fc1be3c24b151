"""Patient-wise folds over small data, pooled."""
