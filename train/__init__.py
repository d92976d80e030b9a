"""Training and honest evaluation: corpora in, a model bundle with figures out."""
