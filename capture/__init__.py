"""Sound in, the ring out."""
