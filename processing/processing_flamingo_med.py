"""FlamingoMedProcessor: images and questions in, model inputs out; the one place where a prompt is written.

This file is made to ship with checkpoints, so it imports nothing of ours.
"""

from collections.abc import Sequence

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
    def token_ids(self) -> dict[str, int]:
        """What `FlamingoMedForConditionalGeneration.from_vision_text_pretrained` needs to know of the tokens."""
        image, end_of_question = self.tokenizer.convert_tokens_to_ids([IMAGE, END_OF_QUESTION])
        return {
            "image_token_id": image,
            "eoq_token_id": end_of_question,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            "vocab_size": len(self.tokenizer),
        }

    def render(self, question: str, num_images: int = 1) -> str:
        """The prompt for a question: `<image> Question: … <EOQ> Answer:`; an empty question asks for a report.

        Raises:
            ValueError: the question holds a special token, which would be read as more than text.
        """
        self._refuse_special_tokens(question, "question")
        content = [{"type": "image"}] * num_images
        if question:
            content.append({"type": "text", "text": question})
        return self.apply_chat_template([{"role": "user", "content": content}])

    def tokenize(self, prompts: Sequence[str], answers: Sequence[str] | None = None) -> BatchFeature:
        """Prompts, and in training their answers, to padded token ids.

        Args:
            prompts: b rendered prompts.
            answers: b answers. Prompt and answer are tokenized apart, so that what the model continues in use is token
                for token what it has learned to continue.

        Returns:
            input_ids, attention_mask (b t), padded on the left to generate from. With answers: padded on the right,
            and labels (b t), which cover exactly the answer and `<EOC>` and are -100 elsewhere.

        Raises:
            ValueError: an answer holds a special token, or a row is longer than the decoder's context.
        """
        rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        answer_ids: list[list[int]] = [[] for _ in rows]
        if answers is not None:
            for answer in answers:
                self._refuse_special_tokens(answer, "answer")
            texts = [f" {answer} {END_OF_CHUNK}" for answer in answers]
            answer_ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
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
            labels = [[-100] * len(prompt) + answer for prompt, answer in zip(rows, answer_ids, strict=True)]
            batch["labels"] = _pad(labels, -100, right)
        return BatchFeature(batch)

    def __call__(
        self,
        images: Image | Sequence[Image] | Sequence[Sequence[Image]] | None = None,
        text: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Everything the model needs for b questions.

        Args:
            images: for one question its image or images; for b questions b images, or b lists of images.
            text: one question or b, as a person would ask them. A text that holds `<image>` is a prompt, written as
                `render` writes it, and stays as it is.
            answers: the answers, in training.
            return_tensors: "pt".
            kwargs: for the image processor.

        Returns:
            pixel_values (b n c h w), n the largest number of images of a row; and `tokenize`'s input_ids,
            attention_mask and labels.

        Raises:
            ValueError: no image, or another number of images than of `<image>` tokens.
        """
        if return_tensors != "pt":
            raise ValueError(f'return_tensors is "pt", got {return_tensors!r}')
        # Pipelines and chat templates also pass modalities that are not there, and padding, which is always done.
        kwargs = {name: value for name, value in kwargs.items() if value is not None and name != "padding"}
        texts = [text] if isinstance(text, str) else list(text or [""])
        rows = self._images_of_rows(images, len(texts))
        prompts = [
            text if IMAGE in text else self.render(text, len(row)) for text, row in zip(texts, rows, strict=True)
        ]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) != prompt.count(IMAGE) or not row:
                raise ValueError(f"{len(row)} images for {prompt.count(IMAGE)} {IMAGE} tokens; give one for each")

        pixels = self.image_processor([image for row in rows for image in row], return_tensors="pt", **kwargs)
        pixel_values = _regroup(pixels["pixel_values"], [len(row) for row in rows])
        answers = [answers] if isinstance(answers, str) else answers
        return BatchFeature({"pixel_values": pixel_values, **self.tokenize(prompts, answers)})

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` returns."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def _images_of_rows(self, images, num_rows: int) -> list[list[Image]]:
        """Images of each row, from any of the forms that `__call__` takes."""
        if images is None:
            raise ValueError("a question needs an image; pass images=…")
        images = self.image_processor.fetch_images(images)
        if not isinstance(images, list | tuple):
            images = [images]
        nested = any(isinstance(row, list | tuple) for row in images)
        if not nested:
            images = [images] if num_rows == 1 else [[image] for image in images]
        if len(images) != num_rows:
            raise ValueError(f"images for {len(images)} rows, but {num_rows} questions")
        return [list(row) for row in images]

    def _refuse_special_tokens(self, text: str, what: str) -> None:
        for token in self.tokenizer.all_special_tokens:
            if token in text:  # the text itself may be a report, which does not belong in a log
                raise ValueError(f"the {what} holds the special token {token!r}; remove it")


def _pad(rows: list[list[int]], value: int, right: bool) -> Tensor:
    """Rows of different lengths to (b t)."""
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([row + pad if right else pad + row for row, pad in zip(rows, fill, strict=True)])


def _regroup(pixels: Tensor, counts: list[int]) -> Tensor:
    """All images (m c h w) to those of each row (b n c h w), zeros where a row has fewer than n."""
    rows = pixels.split(counts)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
