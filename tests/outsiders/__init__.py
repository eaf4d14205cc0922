"""The suites that `transformers` tests its own models with, run on ours by .ci/outsiders."""
