"""What frozen features of the image add to the question's words, by a classifier that has nothing of our model.

    python benchmarks/image_probe.py --data_dir path/to/vqa_rad --vision facebook/dinov2-small

A support vector machine over the answers of VQA-RAD. Two questions are as alike as their TF-IDF vectors; the images
count by a share w: alike(questions) · (1 − w + w · alike(images)), where images are compared by the mean of the
encoder's patches, or by identity, which is what a model that knows every image by heart could use at most. Shares are
compared by cross-validation on what is not test, in five folds that share no image; on the test split, which has all
but one of its images from train, there is question only, and identity. If this finds little in the features, a model
that is trained on so few images can hardly find more.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.svm import SVC
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel

from flamingo_med.cli.main import run
from flamingo_med.cli.parser import CommandParser
from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.evaluation.tables import format_score
from processing.datasets import load_split
from processing.images import read_image

SHARES = (0.0, 0.5, 0.75, 0.9, 1.0)
IDENTITY_SHARE = 0.5
FOLDS = 5
SUBSETS = ("closed", "open", "all")


@dataclass
class ProbeArguments:
    """Which images, seen how."""

    data_dir: str = field(metadata={"help": "folder or Hub id of VQA-RAD"})
    vision: str = field(metadata={"help": "folder or Hub id of an image encoder of transformers"})


@torch.no_grad()
def encode(rows: Dataset, vision: str) -> dict[str, np.ndarray]:
    """Image id → mean of the encoder's last hidden states, (v)."""
    processor, model = AutoImageProcessor.from_pretrained(vision), AutoModel.from_pretrained(vision).eval()
    features = {}
    for row in tqdm(rows, desc="images", unit="row"):
        if row["image_id"] not in features:
            inputs = processor(images=read_image(row["image"]), return_tensors="pt")
            features[row["image_id"]] = model(**inputs).last_hidden_state[0].mean(0).numpy()
    return features


def alike(features: np.ndarray) -> np.ndarray:
    """Similarity of images (n n) from features (n v): a Gaussian of their distance, as wide as their median."""
    features = (features - features.mean(0)) / features.std(0)
    distances = np.square(features[:, None] - features[None]).mean(-1)
    return np.exp(-distances / np.median(distances))


def predict(kernel: np.ndarray, answers: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Answers to the test rows, by their similarity (n n) with the train rows."""
    machine = SVC(kernel="precomputed", C=10).fit(kernel[np.ix_(train, train)], answers[train])
    return machine.predict(kernel[np.ix_(test, train)])


def row_of_table(title: str, right: np.ndarray, rows: Dataset) -> str:
    """Exact match by subset, with intervals clustered by image."""
    kinds, images = np.array(rows["answer_type"]), np.array(rows["image_id"])
    cells = []
    for subset in SUBSETS:
        chosen = np.ones(len(right), bool) if subset == "all" else kinds == subset
        low, high = clustered_bootstrap(right[chosen], images[chosen].tolist())
        cells.append(format_score({"value": right[chosen].mean(), "low": low, "high": high}))
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    """Rows → similarities → answers → table."""
    (args,) = CommandParser("python benchmarks/image_probe.py", __doc__, ProbeArguments).build(sys.argv[1:])
    splits = [load_split("vqa_rad", split, args.data_dir) for split in ("train", "validation", "test")]
    rows = concatenate_datasets(splits)
    answers = np.array([answer.strip().lower() for answer in rows["answer"]])
    known = np.arange(len(rows) - len(splits[-1]))
    test = np.arange(len(known), len(rows))
    words = (
        TfidfVectorizer(ngram_range=(1, 3)).fit([rows[int(i)]["question"] for i in known]).transform(rows["question"])
    )
    questions = (words @ words.T).toarray()
    features = encode(rows, args.vision)
    ids, places = np.unique(rows["image_id"], return_inverse=True)
    images = alike(np.stack([features[name] for name in ids]))[np.ix_(places, places)]
    same = (places[:, None] == places[None]).astype(float)
    kernels = {f"w = {share:g}": questions * (1 - share + share * images) for share in SHARES}
    identity = questions * (1 - IDENTITY_SHARE + IDENTITY_SHARE * same)

    print("| five folds by image | closed | open | all |\n|---|---|---|---|")
    for title, kernel in kernels.items():
        right = np.zeros(len(known))
        for train, held_out in GroupKFold(FOLDS).split(known, groups=places[known]):
            right[held_out] = predict(kernel, answers, train, held_out) == answers[held_out]
        print(row_of_table(title, right, rows.select(known)), flush=True)
    print("\n| official test | closed | open | all |\n|---|---|---|---|")
    for title, kernel in (("question only", questions), ("images by identity", identity)):
        right = (predict(kernel, answers, known, test) == answers[test]).astype(float)
        print(row_of_table(title, right, rows.select(test)), flush=True)


if __name__ == "__main__":
    run(main)
