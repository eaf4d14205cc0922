"""How a model is asked a batch of questions: ours through its collator, any other of the Hub by its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from flamingo_med.inference.features import ImageFeatures
from processing.collator import FlamingoMedCollator
from processing.datasets import images_of
from processing.errors import InputError
from processing.images import read_image
from processing.processing_flamingo_med import FlamingoMedProcessor

# What LLaVA-1.5 is asked for short answers (Liu et al. 2024, "Improved baselines with visual instruction tuning").
INSTRUCTION = "Answer the question using a single word or phrase."
REPORT = "Write the report of this image."
ALIKE = 32  # questions that are padded to one length
NEW_TOKENS = 32  # of a model whose generation configuration sets no number
GREY_SIDE = 448
MOST_SCORED_CLASSES = 100  # beyond, classes are answers, most with a row or two, of which a mean AUROC says little


def context_length(text: PreTrainedConfig) -> int:
    """The most tokens that a decoder reads, by its configuration."""
    return text.max_seq_len if text.model_type == "mpt" else text.max_position_embeddings


@dataclass(frozen=True)
class Answer:
    """A generated answer, and what else the model says to the question.

    Attributes:
        text: the answer.
        confidence: the geometric mean of the probabilities of its tokens, the end mark included; 0 to 1.
        classes: names of the classes that hold by the model's head, one where they exclude each other; None without.
        class_confidence: probability of these classes, those of several taken as independent.
        candidates: log-likelihood of each candidate answer that was asked about.
        class_scores: the head's logits, in the order of its classes; None where there are many classes.
    """

    text: str
    confidence: float
    classes: list[str] | None = None
    class_confidence: float | None = None
    candidates: dict[str, float] | None = None
    class_scores: list[float] | None = None

    def candidate_confidence(self, temperature: float = 1.0) -> float | None:
        """Probability of the answer among the candidates, 0 where it is none of them; None without candidates."""
        if self.candidates is None:
            return None
        names = [name.strip().lower() for name in self.candidates]
        likelihoods = torch.tensor(list(self.candidates.values()), dtype=torch.float64)
        probabilities = (likelihoods / temperature).softmax(0).tolist()
        return dict(zip(names, probabilities, strict=True)).get(self.text.strip().lower(), 0.0)


class FlamingoMedBackend:
    """A model of ours.

    Args:
        model: in evaluation mode.
        processor: its processor.
        max_new_tokens: see `longest_answer`.
        features: stored features of all images, instead of reading them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: FlamingoMedProcessor,
        max_new_tokens: int,
        features: ImageFeatures | None = None,
    ):
        self.model, self.processor, self.max_new_tokens, self.features = model, processor, max_new_tokens, features

    def inputs(self, rows: Sequence[dict], blank_images: bool) -> dict[str, Tensor]:
        """One batch on the model's device.

        Raises:
            InputError: an image that cannot be read, or a question that cannot be asked.
        """
        collate = FlamingoMedCollator(self.processor, answers=False, blank_images=blank_images, features=self.features)
        batch = collate(rows)
        self.check_room(batch["input_ids"].shape[1])
        return {name: value.to(self.model.device) for name, value in batch.items()}

    @torch.no_grad()
    def answer(self, batch: dict[str, Tensor], candidates: Sequence[Sequence[str]]) -> list[Answer]:
        """Answers to b questions.

        Args:
            batch: of `inputs`.
            candidates: for each question answers to be scored, or none.

        Raises:
            InputError: images of another size than the model takes, or more of them.
        """
        images = {name: batch.pop(name) for name in ("pixel_values", "image_features", "frame_mask") if name in batch}
        try:
            latents = self.model.encode_images(**images)
        except ValueError as error:
            raise InputError(f"the images do not fit the model: {error}") from None
        images_of_rows = batch.pop("image_indices")
        lengths = batch["attention_mask"].sum(1)
        answers: dict[int, Answer] = {}
        for some in lengths.argsort(stable=True).split(ALIKE):  # of similar length, so that little is padding
            part = {name: value[some, -lengths[some].max() :] for name, value in batch.items()}
            shown, part["image_indices"] = images_of_rows[some].unique(return_inverse=True)
            part["image_latents"] = latents[shown]
            found = self._answer(part, [candidates[i] for i in some])
            answers |= zip(some.tolist(), found, strict=True)
        return [answers[i] for i in range(len(lengths))]

    def _answer(self, batch: dict[str, Tensor], candidates: Sequence[Sequence[str]]) -> list[Answer]:
        texts = generate(self.model, self.processor, batch, self.max_new_tokens)
        classes = self._classify(batch) if self.model.config.num_labels else [{}] * len(texts)
        scored = self._score(batch, candidates)
        return [
            Answer(*text, candidates=found, **some) for text, some, found in zip(texts, classes, scored, strict=True)
        ]

    def check_room(self, prompt: int) -> None:
        """Refuse a prompt (in tokens) that leaves no room for the longest answer in the decoder's context."""
        context = context_length(self.model.config.get_text_config())
        if prompt + self.max_new_tokens > context:
            raise InputError(
                f"a question of {prompt} tokens and an answer of up to {self.max_new_tokens} does not fit the "
                f"decoder's {context}; shorten the question"
            )

    def _classify(self, batch: dict[str, Tensor]) -> list[dict]:
        """Classes that hold, the probability of that, and where there are few classes their logits."""
        logits = self.model(**batch, logits_to_keep=1).class_logits.float()
        names, probabilities = self.model.config.id2label, class_probabilities(logits, self.model.config)
        if self.model.config.problem_type == "multi_label_classification":
            holds = logits > 0
            confidence = torch.where(holds, probabilities, 1 - probabilities).prod(-1)
            found = [[names[i] for i in row.nonzero().flatten().tolist()] for row in holds]
        else:
            confidence, best = probabilities.max(-1)
            found = [[names[i]] for i in best.tolist()]
        scores = logits.tolist() if len(names) <= MOST_SCORED_CLASSES else [None] * len(found)
        return [
            {"classes": classes, "class_confidence": value, "class_scores": some}
            for classes, value, some in zip(found, confidence.tolist(), scores, strict=True)
        ]

    def _score(self, batch: dict[str, Tensor], candidates: Sequence[Sequence[str]]) -> list[dict[str, float] | None]:
        """Log-likelihood of each question's candidates; so many questions at a time as there are rows to a batch."""
        scored: list[dict[str, float] | None] = [None] * len(candidates)
        asked = [i for i, names in enumerate(candidates) if names]
        step = max(1, len(candidates) // max(map(len, candidates), default=1)) if asked else 1
        for start in range(0, len(asked), step):
            some = asked[start : start + step]
            rows = {name: value if name == "image_latents" else value[some] for name, value in batch.items()}
            tokens = self.processor.tokenize_answers([list(candidates[i]) for i in some]).to(self.model.device)
            for i, scores in zip(some, self.model.score_answers(tokens, **rows).tolist(), strict=True):
                scored[i] = dict(zip(candidates[i], scores, strict=False))  # rows with fewer are filled up
        return scored


class ChatBackend:
    """Any other image-text-to-text model: the question and `INSTRUCTION` as a user's message, or as plain text.

    Args:
        model: in evaluation mode.
        processor: its processor.
        max_new_tokens: see `longest_answer`.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def inputs(self, rows: Sequence[dict], blank_images: bool) -> dict[str, Tensor]:
        """One batch on the model's device.

        Raises:
            InputError: an image that cannot be read, or a question that cannot be asked.
        """
        images = [[self._grey()] if blank_images else [read_image(i) for i in images_of(row)] for row in rows]
        texts = [f"{row['question']}\n{INSTRUCTION}" if row["question"] else REPORT for row in rows]
        try:
            batch = self._chat(images, texts) if self.processor.chat_template else self._plain(images, texts)
        except (ValueError, IndexError) as error:
            names = ", ".join(dict.fromkeys(row["image_id"] for row in rows))
            raise InputError(f"one of {len(rows)} questions, about {names}: {error}") from None
        return batch.to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def answer(self, batch: dict[str, Tensor], candidates: Sequence[Sequence[str]]) -> list[Answer]:
        """Answers to b questions; candidates are not scored."""
        return [Answer(*text) for text in generate(self.model, self.processor, batch, self.max_new_tokens)]

    def _chat(self, images: list[list[Image.Image]], texts: list[str]) -> dict[str, Tensor]:
        conversations = [
            [
                {
                    "role": "user",
                    "content": [*({"type": "image", "image": image} for image in row), {"type": "text", "text": text}],
                }
            ]
            for row, text in zip(images, texts, strict=True)
        ]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )

    def _plain(self, images: list[list[Image.Image]], texts: list[str]) -> dict[str, Tensor]:
        return self.processor(images=images, text=texts, padding=True, return_tensors="pt")

    def _grey(self) -> Image.Image:
        """The colour that normalisation makes zero, whatever the sizes of the images that it stands for."""
        mean = getattr(self.processor.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
        return Image.new("RGB", (GREY_SIDE, GREY_SIDE), tuple(round(255 * value) for value in mean))


Backend = FlamingoMedBackend | ChatBackend


def class_probabilities(logits: Tensor, config: PreTrainedConfig) -> Tensor:
    """Probabilities of classes (… c) from a head's logits (… c): of each by itself where several may hold, else of one
    against the others."""
    logits = logits.float()
    return logits.sigmoid() if config.problem_type == "multi_label_classification" else logits.softmax(-1)


def make_backend(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    features: ImageFeatures | None = None,
    max_new_tokens: int | None = None,
) -> Backend:
    """What asks this model; `features` are for ours only."""
    longest = max_new_tokens or longest_answer(model)
    if isinstance(processor, FlamingoMedProcessor):
        return FlamingoMedBackend(model, processor, longest, features)
    return ChatBackend(model, processor, longest)


def longest_answer(model: PreTrainedModel) -> int:
    """Tokens of the longest answer: what the model's generation configuration says, or `NEW_TOKENS`."""
    return model.generation_config.max_new_tokens or NEW_TOKENS


def generate(
    model: PreTrainedModel, processor: ProcessorMixin, batch: dict[str, Tensor], max_new_tokens: int
) -> list[tuple[str, float]]:
    """Greedy answers and their confidence to one batch of left-padded prompts."""
    greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}  # whatever the checkpoint would do
    output = model.generate(
        **batch, max_new_tokens=max_new_tokens, **greedy, return_dict_in_generate=True, output_logits=True
    )
    tokens = output.sequences[:, -len(output.logits) :]  # (b t), without the prompt
    log_probs = torch.stack(output.logits, dim=1).float().log_softmax(-1)  # (b t v)
    chosen = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    end_marks = model.generation_config.eos_token_id
    is_end = torch.isin(tokens, torch.tensor(end_marks if end_marks is not None else [], device=tokens.device))
    written = is_end.cumsum(-1) - is_end.int() == 0  # up to and including the end mark
    confidence = ((chosen * written).sum(-1) / written.sum(-1)).exp()
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    return [(text.strip(), value) for text, value in zip(texts, confidence.tolist(), strict=True)]
