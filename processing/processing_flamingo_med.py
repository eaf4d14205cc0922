"""FlamingoMedProcessor: images and questions in, model inputs out; the one place where a prompt is written.

This file is made to ship with checkpoints, so it imports nothing of ours but what ships beside it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    CLIPImageProcessorPil,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack

from .images_flamingo_med import Source, read_image

OneImage = Source | tuple[Source, ...]  # a tuple: the views of one study
IMAGE, END_OF_QUESTION, END_OF_CHUNK, PAD = "<image>", "<EOQ>", "<EOC>", "[PAD]"
# What stands where a row is shorter than its batch.
FILLING = {
    **{"attention_mask": 0, "token_type_ids": 0, "mm_token_type_ids": 0, "special_tokens_mask": 1},
    **{"offset_mapping": (0, 0), "labels": -100},
}

# A user's message is a question (or, without text, a request for a report), an assistant's the answer to it.
# Several of them make a few-shot prompt. What a system says stands as it is, before all.
CHAT_TEMPLATE = """
{%- for message in messages -%}
    {%- if message.role not in ["system", "user", "assistant"] -%}
        {{ raise_exception("a message is of the role system, user or assistant, not " ~ message.role) }}
    {%- endif -%}
    {%- set blocks = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
    {%- for block in blocks if block.type not in ["text", "image"] -%}
        {{ raise_exception("a message holds text and image, not " ~ block.type) }}
    {%- endfor -%}
    {%- set text = blocks | selectattr("type", "equalto", "text") | map(attribute="text") | join(" ") -%}
    {%- if message.role == "assistant" -%}
        {%- generation -%}{{ " " + text + " <EOC>" }}{%- endgeneration -%}
    {%- else -%}
        {%- for block in blocks if block.type == "image" -%}{{ "<image>" }}{%- endfor -%}
        {%- if message.role == "system" -%}
            {{ text }}
        {%- else -%}
            {{ " Question: " + text + " <EOQ> Answer:" if text else " Output:" }}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
"""


class FlamingoMedProcessor(ProcessorMixin):
    """CLIP image preprocessing and GPT-2 tokenization in one object.

    >>> from PIL import Image
    >>> from processing.tokenization import train_tokenizer
    >>> tokenizer = train_tokenizer(["Is there a pleural effusion? yes no"] * 3, 300)
    >>> processor = FlamingoMedProcessor.from_vision_text_pretrained(None, tokenizer, image_size=96)
    >>> inputs = processor(images=Image.new("RGB", (120, 80)), text="Is there a pleural effusion?")
    >>> inputs["pixel_values"].shape
    torch.Size([1, 1, 3, 96, 96])
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
            changes |= {"backend": "pil", "trust_remote_code": False}
            image_processor = AutoImageProcessor.from_pretrained(vision, **changes)
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False) if isinstance(text, str) else text
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
        self,
        prompts: Sequence[str],
        answers: Sequence[str] | None = None,
        *,
        train_on_questions: bool = False,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool | str = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = "pt",
        return_mm_token_type_ids: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """Prompts, and in training their answers, to padded token ids.

        Args:
            prompts: b rendered prompts.
            answers: b answers. Prompt and answer are tokenized apart, so that what the model continues in use is token
                for token what it has learned to continue.
            train_on_questions: with answers, all after the last `<image>` is labelled.
            padding, truncation, max_length, pad_to_multiple_of, return_tensors: as of any tokenizer; but rows are
                padded unless padding is False, and tensors are PyTorch's unless return_tensors says otherwise.
            padding_side: "left" by default, to generate from, or with answers "right".
            return_mm_token_type_ids: with mm_token_type_ids (b t), 1 where an image stands.
            kwargs: for the tokenizer, as `add_special_tokens` and `return_offsets_mapping`.

        Returns:
            input_ids, attention_mask (b t). With answers: labels (b t), which cover exactly the answer and `<EOC>`, or
            the question too, and are -100 elsewhere.

        Raises:
            ValueError: no texts, or what is none; an answer holds a special token, a row is longer than the decoder's
                context, or the tokens mark another number of images than the text.
        """
        prompts = _texts(prompts, "prompt")
        answers = None if answers is None else _texts(answers, "answer")
        encoded = self.tokenizer(prompts, **{"return_token_type_ids": False, **kwargs})
        rows, image = encoded["input_ids"], self.image_token_id
        columns: dict[str, list[list]] = {name: encoded[name] for name in FILLING if name in encoded}
        if answers is not None:
            if len(answers) != len(rows):
                raise ValueError(f"{len(answers)} answers for {len(rows)} questions; give one for each")
            starts = [len(row) - row[::-1].index(image) if train_on_questions else len(row) for row in rows]
            rows = [row + self._answer_ids(answer) for row, answer in zip(rows, answers, strict=True)]
            columns = {"labels": [[-100] * start + row[start:] for start, row in zip(starts, rows, strict=True)]}
        columns = {"input_ids": rows, **columns}
        if truncation and truncation != "do_not_truncate":
            limit = max_length or self.tokenizer.model_max_length
            kept = slice(-limit, None) if self.tokenizer.truncation_side == "left" else slice(limit)
            columns = {name: [row[kept] for row in column] for name, column in columns.items()}
        rows = columns["input_ids"]
        self._check_tokens(prompts, rows)

        columns["attention_mask"] = [[1] * len(row) for row in rows]
        if return_mm_token_type_ids:
            columns["mm_token_type_ids"] = [[int(token == image) for token in row] for row in rows]
        width = self._width(max(map(len, rows)), padding, max_length, pad_to_multiple_of)
        on_the_left = (padding_side or ("left" if answers is None else "right")) == "left"
        filling = {"input_ids": self.tokenizer.pad_token_id, **FILLING}
        columns = {name: _pad(column, filling[name], width, on_the_left) for name, column in columns.items()}
        return BatchFeature(columns, tensor_type=return_tensors)

    def _check_tokens(self, texts: Sequence[str], rows: list[list[int]]) -> None:
        """Refuse rows in which an image is lost, and rows that the decoder has no positions for."""
        image, longest = self.image_token_id, max(map(len, rows))
        for text, row in zip(texts, rows, strict=True):
            said, seen = text.count(IMAGE), row.count(image)
            if said != seen:
                raise ValueError(
                    f"the tokenizer reads {seen} {IMAGE} in a text with {said} of them; reword it, or truncate it less"
                )
        if longest > self.tokenizer.model_max_length:
            raise ValueError(
                f"a text of {longest} tokens does not fit the decoder's {self.tokenizer.model_max_length}; shorten it"
            )

    def _width(self, longest: int, padding: bool | str, max_length: int | None, multiple: int | None) -> int:
        """How many tokens a row is filled up to; 0 where none is."""
        if not padding or padding == "do_not_pad":
            return 0
        if padding == "max_length":
            longest = max(longest, max_length or self.tokenizer.model_max_length)
        return -(-longest // multiple) * multiple if multiple else longest

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
            rows = [self._answer_ids(answer) for answer in answers]
            return torch.tensor(_pad(rows, -100, max(map(len, rows)), on_the_left=False))
        rows = [_texts(row, "answer") for row in answers]
        flat = self.tokenize_answers([answer for row in rows for answer in row])
        return torch.nn.utils.rnn.pad_sequence(flat.split([len(row) for row in rows]), True, -100)

    def __call__(
        self,
        images: OneImage | Sequence[OneImage] | Sequence[Sequence[OneImage]] | None = None,
        text: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        examples: Sequence[tuple[OneImage, str, str]] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Everything the model needs for b questions.

        Args:
            images: for one question its image or list of images; for b questions one image that all are about, b
                images, b lists of images, or a list of as many images as there are `<image>` in the prompts. An image
                is anything that `read_image` takes: a PIL image, an array, a path, a URL. A tuple of images is one
                study, whose views the model takes as frames of one image.
            text: one question or b, as a person would ask them about their images; none asks for a report. A text that
                holds `<image>`, or comes without an image, is a prompt, written as `render` or a chat template writes
                it, and stays as it is.
            answers: the answers, in training.
            examples: image, question and answer, to be shown before each question (few-shot).
            kwargs: for tokenizer and image processor, flat or as text_kwargs and images_kwargs; see `tokenize`. Videos
                and sounds are taken where there are none of them.

        Returns:
            `tokenize`'s input_ids, attention_mask and labels; and, where there is an image, pixel_values (b n c h w),
            n the largest number of images of a row, or with studies (b n f c h w) and frame_mask (b n f), False where
            a study has fewer than f.

        Raises:
            ValueError: neither text nor image, an image that cannot be read, or another number of images than of
                `<image>` tokens.
        """
        for name in ("videos", "audio", "audios"):
            if not _is_empty(kwargs.pop(name, None)):
                raise ValueError(f"the model reads images and text, but no {name}; leave them out")
        if text is None and _is_empty(images):
            raise ValueError("there is nothing to read; pass images=…, text=… or both")
        texts = _texts("" if text is None else text, "question")
        if not isinstance(examples or (), Sequence) or not all(
            isinstance(example, tuple | list) and len(example) == 3 for example in examples or ()
        ):
            raise ValueError("an example is an image, a question and an answer")
        shown = [image for image, _, _ in examples or ()]
        said = [(question, answer) for _, question, answer in examples or ()]
        if said and any(IMAGE in text for text in texts):
            raise ValueError(f"a text with {IMAGE} is a whole prompt; write the examples into it")
        rows = _images_of_rows(images, texts)
        prompts = [
            self.render(text, len(row), said) if (row or said) and IMAGE not in text else text
            for text, row in zip(texts, rows, strict=True)
        ]
        rows = [[*shown, *row] for row in rows]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) != prompt.count(IMAGE):
                raise ValueError(
                    f"{len(row)} images for {prompt.count(IMAGE)} {IMAGE} tokens; the number of {IMAGE} tokens in the "
                    "prompts should be the same as the number of images"
                )

        text_kwargs, images_kwargs = self._options(kwargs)
        with_offsets = text_kwargs.pop("return_text_replacement_offsets", False)
        answers = [answers] if isinstance(answers, str) else answers
        batch = self.tokenize(prompts, answers, **text_kwargs)
        if any(rows):
            batch.update(self.pixels(rows, **images_kwargs))
            batch.convert_to_tensors(text_kwargs.get("return_tensors", "pt"))
        if with_offsets:  # every token of an image stays one
            offsets = self.get_text_with_replacements(prompts, [IMAGE] * sum(map(len, rows)))[1]
            batch["text_replacement_offsets"] = offsets
        return batch

    def _options(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was asked of tokenizer and image processor, flat or in a dictionary for each."""
        # Pipelines and chat templates also pass what is not there.
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name == "return_tensors"}
        kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        flat = {**kwargs.get("text_kwargs", {}), **kwargs}
        own = ("padding_side", "return_mm_token_type_ids", "return_text_replacement_offsets")
        try:
            merged = self._merge_kwargs(
                self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
            )
        except StrictDataclassError as error:
            raise ValueError(f"a setting of the processor is no good: {' '.join(str(error).split())}") from error
        # A tokenizer's own padding side is that of its pretraining.
        text_kwargs = {name: value for name, value in merged["text_kwargs"].items() if name not in own}
        text_kwargs |= {name: flat[name] for name in own if flat.get(name) is not None}
        images_kwargs = {name: value for name, value in merged["images_kwargs"].items() if name != "return_tensors"}
        return text_kwargs, images_kwargs

    def pixels(self, rows: list[list[OneImage]], **kwargs) -> dict[str, Tensor]:
        """Images of b rows → pixel_values (b n c h w), or (b n f c h w) and frame_mask (b n f).

        Raises:
            ValueError: an image that `read_image` cannot read.
        """
        studies = [image if isinstance(image, tuple) else (image,) for row in rows for image in row]
        counts, frames = [len(row) for row in rows], [len(study) for study in studies]
        flat = [read_image(image) for study in studies for image in study]
        try:
            pixels = self.image_processor(flat, return_tensors="pt", **kwargs)["pixel_values"]
        except Exception as error:  # of whatever kind: image processors check neither images nor settings
            raise ValueError(f"the images cannot be prepared: {' '.join(str(error).split())[:300]}") from error
        pixel_values = _regroup(_regroup(pixels, frames), counts)
        if max(frames) == 1:
            return {"pixel_values": pixel_values.squeeze(2)}
        is_frame = _regroup(torch.ones(len(pixels), dtype=torch.bool), frames)
        return {"pixel_values": pixel_values, "frame_mask": _regroup(is_frame, counts)}

    @property
    def image_token(self) -> str:
        """What stands for an image in a prompt."""
        return IMAGE

    @property
    def image_token_id(self) -> int:
        """The token of an image."""
        return self.token_ids["image_token_id"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """What stands for an image in the tokens: as in the prompt, one of them."""
        return IMAGE

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs):
        """How many tokens and patches stand for images of these sizes: one each (vLLM asks for it)."""
        ones = [1] * len(image_sizes or ())
        return MultiModalData(num_image_tokens=ones, num_image_patches=ones)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As of any processor; the name of the class that the code beside it holds is for the file alone."""
        try:
            return super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finally:
            self.__dict__.pop("auto_map", None)

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


def _is_empty(media: Any) -> bool:
    """Whether nothing is given: None, an empty list, or a list of such."""
    return media is None or (isinstance(media, list | tuple) and all(map(_is_empty, media)))


def _images_of_rows(images: Any, texts: list[str]) -> list[list[OneImage]]:
    """Images of each row, from any of the forms that a processor takes."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        images = list(images)
    if _is_empty(images):
        return [[] for _ in texts]
    if not isinstance(images, list):  # a single one, which all questions are about
        return [[images] for _ in texts]
    if any(isinstance(row, list) for row in images):
        rows = [row if isinstance(row, list) else [row] for row in images]
    elif len(texts) == 1:
        rows = [images]
    else:
        counts = [text.count(IMAGE) for text in texts]
        if sum(counts) != len(images):  # questions, which hold none, are about one each
            counts = [count or 1 for count in counts]
        if sum(counts) != len(images):
            counts = [1] * len(images)
        ends = np.cumsum(counts).tolist()
        rows = [images[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if len(rows) != len(texts):
        raise ValueError(
            f"images for {len(rows)} rows, but {len(texts)} questions; the number of {IMAGE} tokens in the prompts "
            "should be the same as the number of images; an image that is no list is shown to all questions"
        )
    return rows


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


def _pad(rows: list[list], value: Any, width: int, on_the_left: bool) -> list[list]:
    """Rows filled up to a width that may be less than theirs."""
    filling = [[value] * (width - len(row)) for row in rows]
    return [fill + row if on_the_left else row + fill for row, fill in zip(rows, filling, strict=True)]


def _regroup(flat: Tensor, counts: list[int]) -> Tensor:
    """(m …) → (len(counts) max(counts) …): runs of `counts` stand in a row each, filled up with zeros."""
    return torch.nn.utils.rnn.pad_sequence(flat.split(counts), batch_first=True)
