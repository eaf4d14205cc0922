"""Tests mirror the modules; everything runs on tiny random models, what uses real data skips where there is none."""
