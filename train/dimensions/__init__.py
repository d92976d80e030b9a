"""Dimensions of emotion: linear outputs on the pooled statistics of a bundle that exists."""
