"""The scorers that give every row a value; the value of a subset is the mean over its rows.

Each has `score(prediction, references)` → {metric: value of the row}, `signature(metric)`, and a metric class for the
`evaluate` library. A metric that another scorer has too under its own name, such as the exact match of `vqa_rad`, is
only in the class. Those that need more than two texts are not among them: `classification`, `sentence_similarity`, the
corpus BLEU of `text_overlap`, the embeddings of `original`.
"""

from processing.scoring import exact_match, imageclef, normalized_match, original, text_overlap, vqa_rad

SCORERS = (exact_match, normalized_match, imageclef, vqa_rad, original, text_overlap)
