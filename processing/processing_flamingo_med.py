"""FlamingoMedProcessor: images and questions in, model inputs out; the one place where a prompt is written.

This file is made to ship with checkpoints, so it imports nothing of ours.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    CLIPImageProcessorPil,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

OneImage = Image | tuple[Image, ...]  # a tuple: the views of one study
IMAGE, END_OF_QUESTION, END_OF_CHUNK, PAD = "<image>", "<EOQ>", "<EOC>", "[PAD]"

# A user's message is a question (or, without text, a request for a report), an assistant's the answer to it.
# Several of them make a few-shot prompt.
CHAT_TEMPLATE = """
{%- for message in messages -%}
    {%- set blocks = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
    {%- set text = blocks | selectattr("type", "equalto", "text") | map(attribute="text") | join(" ") -%}
    {%- if message.role == "assistant" -%}
        {{ " " + text + " <EOC>" }}
    {%- else -%}
        {%- for block in blocks if block.type == "image" -%}{{ "<image>" }}{%- endfor -%}
        {{ " Question: " + text + " <EOQ> Answer:" if text else " Output:" }}
    {%- endif -%}
{%- endfor -%}
"""


class FlamingoMedProcessor(ProcessorMixin):
    """CLIP image preprocessing and GPT-2 tokenization in one object.

    >>> processor = FlamingoMedProcessor.from_pretrained("runs/phantom")
    >>> inputs = processor(images=image, text="Is there a pleural effusion?")
    >>> inputs["pixel_values"].shape, inputs["input_ids"].shape
    (torch.Size([1, 1, 3, 96, 96]), torch.Size([1, 13]))
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | None, text: str | PreTrainedTokenizerBase, image_size: int | None = None
    ) -> "FlamingoMedProcessor":
        """A processor for the model of the same name's constructor.

        Args:
            vision: Hub id or local folder whose image preprocessing is taken; CLIP's where None.
            text: Hub id, local folder, or a tokenizer; it gets the special tokens that it lacks.
            image_size: side, in pixels, of the square that the whole image is scaled to, so that nothing at its border
                is lost; where None, `vision`'s own resizing and cropping.
        """
        changes = {}
        if image_size is not None:
            changes = {"size": {"height": image_size, "width": image_size}, "do_center_crop": False}
        if vision is None:
            image_processor = CLIPImageProcessorPil(**changes)
        else:
            image_processor = AutoImageProcessor.from_pretrained(vision, backend="pil", **changes)
        tokenizer = AutoTokenizer.from_pretrained(text) if isinstance(text, str) else text
        tokenizer.add_special_tokens(
            {
                "eos_token": AddedToken(END_OF_CHUNK, lstrip=True, special=True),
                "extra_special_tokens": [
                    AddedToken(IMAGE, special=True),
                    AddedToken(END_OF_QUESTION, lstrip=True, special=True),
                ],
            },
            replace_extra_special_tokens=False,
        )
        if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            tokenizer.add_special_tokens({"pad_token": PAD})
        return cls(image_processor, tokenizer)

    @property
    def token_ids(self) -> dict[str, int | None]:
        """What `FlamingoMedForConditionalGeneration.from_vision_text_pretrained` needs to know of the tokens.

        Converted tokenizers may have no `<EOQ>`, and may take `<image>` for several tokens, of which the first counts.
        """
        added = self.tokenizer.get_added_vocab()
        pieces = self.tokenizer(IMAGE, add_special_tokens=False)["input_ids"]
        return {
            "image_token_id": added.get(IMAGE, pieces[0]),
            "eoq_token_id": added.get(END_OF_QUESTION),
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            "vocab_size": len(self.tokenizer),
        }

    def render(self, question: str, num_images: int = 1, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt for a question: `<image> Question: … <EOQ> Answer:`; an empty question asks for a report.

        Args:
            question: the question.
            num_images: how many images stand before it.
            examples: questions with their answers, each about one image, that come before it (few-shot).

        Raises:
            ValueError: a text holds a special token, which would be read as more than text, or is none; no such number
                of images.
        """
        if not isinstance(num_images, int) or num_images < 0:
            raise ValueError(f"num_images is a whole number from 0, got {num_images!r}")
        messages = []
        for text, answer in examples:
            messages += [self._user(text, 1), {"role": "assistant", "content": self._plain(answer, "answer")}]
        return self.apply_chat_template([*messages, self._user(question, num_images)])

    def _user(self, question: str, num_images: int) -> dict:
        content = [{"type": "image"}] * num_images
        if question:
            content.append({"type": "text", "text": self._plain(question, "question")})
        return {"role": "user", "content": content}

    def tokenize(
        self, prompts: Sequence[str], answers: Sequence[str] | None = None, *, train_on_questions: bool = False
    ) -> BatchFeature:
        """Prompts, and in training their answers, to padded token ids.

        Args:
            prompts: b rendered prompts.
            answers: b answers. Prompt and answer are tokenized apart, so that what the model continues in use is token
                for token what it has learned to continue.
            train_on_questions: with answers, all after the last `<image>` is labelled.

        Returns:
            input_ids, attention_mask (b t), padded on the left to generate from. With answers: padded on the right,
            and labels (b t), which cover exactly the answer and `<EOC>`, or the question too, and are -100 elsewhere.

        Raises:
            ValueError: no texts, or what is none; an answer holds a special token, a row is longer than the decoder's
                context, or the tokens mark another number of images than the text.
        """
        prompts = _texts(prompts, "prompt")
        answers = None if answers is None else _texts(answers, "answer")
        if answers is not None and len(answers) != len(prompts):
            raise ValueError(f"{len(answers)} answers, but {len(prompts)} questions; give one for each")
        rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        answer_ids: list[list[int]] = [[] for _ in rows]
        if answers is not None:
            answer_ids = [self._answer_ids(answer) for answer in answers]
        image = self.token_ids["image_token_id"]
        for text, prompt, answer in zip(prompts, rows, answer_ids, strict=True):
            said, seen = text.count(IMAGE), (prompt + answer).count(image)
            if said != seen:
                raise ValueError(f"the tokenizer reads {seen} {IMAGE} in a text with {said} of them; reword it")
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(rows, answer_ids, strict=True))
        if longest > self.tokenizer.model_max_length:
            raise ValueError(
                f"a text of {longest} tokens does not fit the decoder's {self.tokenizer.model_max_length}; shorten it"
            )

        right = answers is not None
        input_ids = [prompt + answer for prompt, answer in zip(rows, answer_ids, strict=True)]
        batch = {
            "input_ids": _pad(input_ids, self.tokenizer.pad_token_id, right),
            "attention_mask": _pad([[1] * len(row) for row in input_ids], 0, right),
        }
        if answers is not None:
            starts = [len(row) - row[::-1].index(image) if train_on_questions else len(row) for row in rows]
            labels = [[-100] * start + row[start:] for start, row in zip(starts, input_ids, strict=True)]
            batch["labels"] = _pad(labels, -100, right)
        return BatchFeature(batch)

    def tokenize_answers(self, answers: Sequence[str] | Sequence[Sequence[str]]) -> Tensor:
        """Candidate answers for `FlamingoMedForConditionalGeneration.score_answers`.

        Args:
            answers: s answers for all questions, or as many for each of b.

        Returns:
            (s t) or (b s t) token ids up to `<EOC>`, -100 on padding.

        Raises:
            ValueError: no answers, or what is no text.
        """
        if not isinstance(answers, Sequence) or not answers:
            raise ValueError("candidate answers are a list of texts, or a list of such lists; got none")
        if isinstance(answers[0], str):
            return _pad([self._answer_ids(answer) for answer in answers], -100, right=True)
        rows = [_texts(row, "answer") for row in answers]
        flat = self.tokenize_answers([answer for row in rows for answer in row])
        return torch.nn.utils.rnn.pad_sequence(flat.split([len(row) for row in rows]), True, -100)

    def __call__(
        self,
        images: OneImage | Sequence[OneImage] | Sequence[Sequence[OneImage]] | None = None,
        text: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        examples: Sequence[tuple[OneImage, str, str]] = (),
        return_tensors: str = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Everything the model needs for b questions.

        Args:
            images: for one question its image or list of images; for b questions b images, or b lists of images. A
                tuple of images is one study, whose views the model takes as frames of one image.
            text: one question or b, as a person would ask them. A text that holds `<image>` is a prompt, written as
                `render` writes it, and stays as it is.
            answers: the answers, in training.
            examples: image, question and answer, to be shown before each question (few-shot).
            return_tensors: "pt".
            kwargs: for the image processor.

        Returns:
            pixel_values (b n c h w), n the largest number of images of a row, or with studies (b n f c h w) and
            frame_mask (b n f), False where a study has fewer than f; and `tokenize`'s input_ids, attention_mask and
            labels.

        Raises:
            ValueError: no image, one that cannot be read, or another number of images than of `<image>` tokens; texts
                that are none, or hold special tokens.
        """
        if return_tensors != "pt":
            raise ValueError(f'return_tensors is "pt", got {return_tensors!r}')
        # Pipelines and chat templates also pass modalities that are not there, and padding, which is always done.
        kwargs = {name: value for name, value in kwargs.items() if value is not None and name != "padding"}
        texts = _texts([""] if text is None or text == [] else text, "question")
        if not isinstance(examples, Sequence) or not all(
            isinstance(example, tuple | list) and len(example) == 3 for example in examples
        ):
            raise ValueError("an example is an image, a question and an answer")
        shown = [image for image, _, _ in examples]
        said = [(question, answer) for _, question, answer in examples]
        if examples and any(IMAGE in text for text in texts):
            raise ValueError(f"a text with {IMAGE} is a whole prompt; write the examples into it")
        rows = _images_of_rows(images, len(texts))
        prompts = [
            text if IMAGE in text else self.render(text, len(row), said) for text, row in zip(texts, rows, strict=True)
        ]
        rows = [[*shown, *row] for row in rows]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) != prompt.count(IMAGE) or not row:
                raise ValueError(f"{len(row)} images for {prompt.count(IMAGE)} {IMAGE} tokens; give one for each")
        return BatchFeature({**self.pixels(rows, **kwargs), **self.tokenize(prompts, answers)})

    def pixels(self, rows: list[list[OneImage]], **kwargs) -> dict[str, Tensor]:
        """Images of b rows → pixel_values (b n c h w), or (b n f c h w) and frame_mask (b n f).

        Raises:
            ValueError: what is no image, or cannot be read or prepared.
        """
        studies = [image if isinstance(image, tuple) else (image,) for row in rows for image in row]
        counts, frames = [len(row) for row in rows], [len(study) for study in studies]
        flat = [_image(image) for study in studies for image in study]
        try:
            flat = self.image_processor.fetch_images(flat)
            pixels = self.image_processor(flat, return_tensors="pt", **kwargs)["pixel_values"]
        except Exception as error:  # of whatever kind: image processors check neither images nor settings
            raise ValueError(f"the images cannot be prepared: {' '.join(str(error).split())[:300]}") from error
        pixel_values = _regroup(_regroup(pixels, frames), counts)
        if max(frames) == 1:
            return {"pixel_values": pixel_values.squeeze(2)}
        is_frame = _regroup(torch.ones(len(pixels), dtype=torch.bool), frames)
        return {"pixel_values": pixel_values, "frame_mask": _regroup(is_frame, counts)}

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` returns."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def _answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer as it follows a prompt, the end of the chunk included."""
        text = f" {self._plain(answer, 'answer')} {self.tokenizer.eos_token}"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str, what: str) -> str:
        """The text, which must not hold special tokens."""
        (text,) = _texts([text], what)
        for token in self.tokenizer.all_special_tokens:
            if token in text:  # the text itself may be a report, which does not belong in a log
                raise ValueError(f"the {what} holds the special token {token!r}; remove it")
        return text


def _images_of_rows(images, num_rows: int) -> list[list[OneImage]]:
    """Images of each row, from any of the forms that a processor takes."""
    if images is None:
        raise ValueError("a question needs an image; pass images=…")
    if not isinstance(images, list):
        images = [images]
    if any(isinstance(row, list) for row in images) and not all(isinstance(row, list) for row in images):
        raise ValueError("images of several questions are a list of images, or a list of lists of images, not both")
    if not any(isinstance(row, list) for row in images):
        images = [images] if num_rows == 1 else [[image] for image in images]
    if len(images) != num_rows:
        raise ValueError(f"images for {len(images)} rows, but {num_rows} questions")
    return images


def _texts(texts: str | Iterable[str], what: str) -> list[str]:
    """One text or several as a list of some."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | dict) or not (texts := list(texts)):
        raise ValueError(f"the {what} is a text, or a list of texts with at least one")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"the {what} is a text, not of type {type(text).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"the {what} holds half a character (a lone surrogate); remove it")
    return texts


def _image(image: Any) -> Any:
    """An image that has pixels: of PIL, or an array or tensor of one, or the path or address of a file."""
    if isinstance(image, str) and image:
        return image
    shape = image.size if isinstance(image, Image) else getattr(image, "shape", ())
    if not isinstance(image, Image | np.ndarray | Tensor) or len(shape) not in (2, 3):
        raise ValueError(f"an image is of PIL, or an array of two or three dimensions, not of {type(image).__name__}")
    if 0 in shape:
        raise ValueError(f"an image has no pixels: {' × '.join(map(str, shape))}")
    return image


def _pad(rows: list[list[int]], value: int, right: bool) -> Tensor:
    """Rows of different lengths to (b t)."""
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([row + pad if right else pad + row for row, pad in zip(rows, fill, strict=True)])


def _regroup(flat: Tensor, counts: list[int]) -> Tensor:
    """(m …) → (len(counts) max(counts) …): runs of `counts` stand in a row each, filled up with zeros."""
    return torch.nn.utils.rnn.pad_sequence(flat.split(counts), batch_first=True)
