"""What every stage shares: the ring, the messages, the bundle format, the stage runtime."""
