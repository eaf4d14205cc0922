"""Rows of a data set to one batch, in which every distinct image stands once."""

from collections.abc import Mapping, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from processing.augmentation import Augmentation
from processing.datasets import images_of
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor
from processing.row_checks import bad_texts, refuse


class FlamingoMedCollator:
    """Rows with image, image_id, question (and answer, label) → what the model's forward takes.

    Args:
        processor: the model's processor.
        answers: with the answers, for training; without, for generation.
        blank_images: every image a uniform grey, to see what the model answers without one.
        features: image → (p d), what a frozen image encoder made of it, instead of the images themselves.
        label2id: the classes of the model's head, to train on the rows' labels; none where it has no head.
        multi_label: several classes may hold at once.
        packed: put all rows end to end in one, without padding.
        train_on_questions: with the answers, labels cover the questions too.
    """

    def __init__(
        self,
        processor: FlamingoMedProcessor,
        *,
        answers: bool,
        blank_images: bool = False,
        features: Mapping[dict, Tensor] | None = None,
        label2id: dict[str, int] | None = None,
        multi_label: bool = False,
        packed: bool = False,
        train_on_questions: bool = False,
    ):
        self.processor = processor
        self.answers = answers
        self.blank_images = blank_images
        self.features = features
        self.label2id = label2id or {}
        self.multi_label = multi_label
        self.packed = packed
        self.train_on_questions = train_on_questions

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """b rows about m distinct images → pixel_values (m 1 c h w) or image_features (m 1 f p d), of studies
        pixel_values (m 1 f c h w) and frame_mask (m 1 f), image_indices (b 1), input_ids (b t), …"""
        studies = {row["image_id"]: row for row in rows}
        number = {image_id: i for i, image_id in enumerate(studies)}
        if self.blank_images:  # they are all the same one
            first = rows[0]["image_id"]
            images = self.pixels({first: {**studies[first], "more_images": []}})
            images["pixel_values"].zero_()  # after normalisation: the mean colour
            number = dict.fromkeys(studies, 0)
        elif self.features is not None:
            images = self.stored_features(studies)
        else:
            images = self.pixels(studies)
        answers = [row["answer"] for row in rows] if self.answers else None
        try:
            prompts = [self.processor.render(row["question"]) for row in rows]
            tokens = self.processor.tokenize(prompts, answers, train_on_questions=self.train_on_questions)
        except ValueError:
            bad = bad_texts(self.processor, [row["question"] for row in rows], answers)
            refuse([(rows[i].get("id", rows[i]["image_id"]), why) for i, why in bad.items()], len(rows), "a batch")
            raise
        image_indices = torch.tensor([[number[row["image_id"]]] for row in rows])
        batch = {**images, "image_indices": image_indices, **tokens}
        if self.label2id:
            batch["class_labels"] = self.class_labels(rows)
        return pack(batch, self.processor.token_ids["image_token_id"]) if self.packed else batch

    def pixels(self, rows: dict[str, dict]) -> dict[str, Tensor]:
        """Images of m studies, one of the rows about each, decoded and preprocessed."""
        return self.processor.pixels([[tuple(map(read_image, images_of(row)))] for row in rows.values()])

    def stored_features(self, rows: dict[str, dict]) -> dict[str, Tensor]:
        """What the image encoder made of the images of m studies."""
        features = [torch.stack([self.features[image] for image in images_of(row)]) for row in rows.values()]
        counts = torch.tensor([len(frames) for frames in features])
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True).unsqueeze(1)
        if counts.max() == 1:
            return {"image_features": padded}
        return {"image_features": padded, "frame_mask": (torch.arange(counts.max()) < counts[:, None]).unsqueeze(1)}

    def class_labels(self, rows: Sequence[dict]) -> Tensor:
        """Classes of the rows for the head: (b) ids, -100 where a row has none that it knows; or, of several classes,
        (b c) of 0 and 1, -100 where a row's are unknown."""
        known = [[self.label2id[name] for name in row["label"] or () if name in self.label2id] for row in rows]
        if not self.multi_label:
            return torch.tensor([ids[0] if ids else -100 for ids in known])
        classes = torch.zeros(len(rows), len(self.label2id))
        for target, row, ids in zip(classes, rows, known, strict=True):
            target[ids] = 1.0
            if row["label"] is None:
                target[:] = -100.0
        return classes


class FlamingoMedTrainingCollator(FlamingoMedCollator):
    """The same with answers, and with images that look different in every epoch.

    Only the training loader has one, so that nothing is ever evaluated on changed images. Rows have their epoch.

    Args:
        augmentation: how images are changed.
        seed: with the epoch and the image, what the change depends on: neither workers nor resuming alter it.
        kwargs: of `FlamingoMedCollator`.
    """

    def __init__(self, processor: FlamingoMedProcessor, *, augmentation: Augmentation, seed: int, **kwargs):
        super().__init__(processor, answers=True, **kwargs)
        self.augmentation = augmentation
        self.seed = seed

    def __call__(self, rows: Sequence[dict]) -> dict:
        """The batch, and row_ids, which name its rows if its loss is non-finite."""
        return {**super().__call__(rows), "row_ids": [row["id"] for row in rows]}

    def pixels(self, rows: dict[str, dict]) -> dict[str, Tensor]:
        """Images of m studies as they look in this epoch."""

        def look(row: dict, image: dict) -> Image:
            return self.augmentation(read_image(image), seed=f"{self.seed}/{row['epoch']}/{row['image_id']}")

        return self.processor.pixels([[tuple(look(row, image) for image in images_of(row))] for row in rows.values()])


def pack(batch: dict[str, Tensor], image_token_id: int) -> dict[str, Tensor]:
    """b rows (b t), padded, about m images → one row of their tokens end to end, without padding.

    Args:
        batch: of `FlamingoMedCollator`; each row is about one image.
        image_token_id: id of `<image>`.

    Returns:
        input_ids, labels, position_ids, sequence_ids, latest_image (1 t), all images (1 m …) in that row; class_labels
        as they are.
    """
    real = batch["attention_mask"].bool()
    b, t = real.shape
    sees_image = (batch["input_ids"] == image_token_id).cumsum(-1) > 0
    tokens = {
        "input_ids": batch["input_ids"],
        "labels": batch["labels"],
        "position_ids": torch.arange(t).expand(b, t),
        "sequence_ids": torch.arange(b).unsqueeze(1).expand(b, t),
        "latest_image": (batch["image_indices"] + 1) * sees_image,
    }
    images = {
        name: batch[name].transpose(0, 1) for name in ("pixel_values", "image_features", "frame_mask") if name in batch
    }
    rest = {name: batch[name] for name in ("class_labels",) if name in batch}
    return {**{name: value[real].unsqueeze(0) for name, value in tokens.items()}, **images, **rest}
