"""Answers → scores: one file per scorer, baselines without pixels, clustered intervals, and the report of all."""
