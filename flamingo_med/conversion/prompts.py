"""The prompts of other Flamingos as chat templates, by name; ours is in the processor."""

import json

from processing.processing_flamingo_med import CHAT_TEMPLATE

SKELETON = """
{{- START -}}
{%- for message in messages -%}
    {%- if message.role not in ["system", "user", "assistant"] -%}
        {{ raise_exception("a message is of the role system, user or assistant, not " ~ message.role) }}
    {%- endif -%}
    {%- set blocks = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
    {%- set text = blocks | selectattr("type", "equalto", "text") | map(attribute="text") | join(" ") -%}
    {%- set images = blocks | selectattr("type", "equalto", "image") | list -%}
    {%- if message.role == "assistant" -%}
        {%- generation -%}{{ ANSWER.replace("{}", text) }}{%- endgeneration -%}
    {%- elif message.role == "system" -%}
        {{ text }}
    {%- else -%}
        {{- USER + (BEFORE_IMAGES if images else "") + IMAGE * (images | length) -}}
        {{- QUESTION.replace("{}", text) if text else REPORT -}}
    {%- endif -%}
{%- endfor -%}
"""


def chat_template(
    *,
    question: str,
    answer: str,
    report: str,
    start: str = "",
    user: str = "",
    before_images: str = "",
    image: str = "<image>",
) -> str:
    """A chat template that joins these parts without anything between them.

    Args:
        question, answer: with {} for the text of the message.
        report: in place of a question without text.
        start: before all messages.
        user: before every message of the user.
        before_images: before the images of a message.
        image: for each of them.
    """
    parts = {"QUESTION": question, "ANSWER": answer, "REPORT": report, "START": start, "USER": user}
    parts |= {"BEFORE_IMAGES": before_images, "IMAGE": image}
    lines = [f"{{%- set {name} = {json.dumps(text, ensure_ascii=False)} -%}}" for name, text in parts.items()]
    return "\n".join(lines) + SKELETON


MED_FLAMINGO = (
    "You are a helpful medical assistant. You are being provided with images, a question about the image and an "
    "answer. Follow the examples and answer the last question. "
)
IDEFICS = {"user": "User:", "before_images": "<fake_token_around_image>", "image": "<image><fake_token_around_image>"}
PROMPTS = {
    "flamingo_med": CHAT_TEMPLATE,
    "flamingo_mini": chat_template(question="{}", answer="{}<EOC>", report=""),
    "open_flamingo": chat_template(question="Question:{} Short answer:", answer="{}<|endofchunk|>", report="Output:"),
    "med_flamingo": chat_template(
        question="Question: {} Answer:", answer=" {}<|endofchunk|>", report="", start=MED_FLAMINGO
    ),
    "idefics": chat_template(question="{}\nAssistant:", answer=" {}\n", report="\nAssistant:", **IDEFICS),
    "idefics_instruct": chat_template(
        question="{}<end_of_utterance>\nAssistant:",
        answer=" {}<end_of_utterance>\n",
        report="<end_of_utterance>\nAssistant:",
        **IDEFICS,
    ),
}
