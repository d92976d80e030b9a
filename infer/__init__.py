"""Windows of features in, calibrated and smoothed emotions out."""
