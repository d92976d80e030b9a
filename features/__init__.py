"""Windows of a stream to normalized features: the window grid, the voice gate, the feature core."""
