"""Checkpoints of other Flamingos: how each kind is laid out, a file for each, and what they have in common."""
