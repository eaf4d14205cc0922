"""What the page shows, as HTML: notice, image with map, answer, examples, error.

All that comes from outside is escaped. Pictures travel inside the page, so that the server keeps no file of them.
"""

import io
import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from PIL import Image

from flamingo_med.demo.asking import Option, Reply
from flamingo_med.demo.heat import Heat, gradient
from flamingo_med.demo.upload import Upload, fit
from flamingo_med.reporting.figures import data_uri

CLASSES = 8  # that are shown
LEAST = 0.001  # probability of another answer that is shown
EMPTY_VIEWER = '<div class="empty">No image yet. Upload one, or take an example.</div>'
NO_ANSWER = '<div class="empty">The answer will appear here.</div>'


def header(name: str) -> str:
    """Title, model and notice."""
    return f"""
<header class="top">
  <div><h1>Ask about a medical image</h1><p class="quiet">Model <code>{escape(name)}</code></p></div>
  <p class="notice" role="note"><strong>Research software. Not for clinical use.</strong>
  Upload de-identified images only. A file is deleted once it is read; its image stays in memory until it is replaced,
  the page is closed, others need the memory, or 15 minutes have passed.</p>
</header>"""


def viewer(upload: Upload, heat: Heat | None = None, note: str = "") -> str:
    """The image, the map over it with what its colours mean, and a note."""
    width, height = upload.size
    layers = f'<img src="{_data_uri(upload.image)}" alt="The image, {width} by {height} pixels">'
    captions = []
    if heat is not None:
        layers += f'<img class="heat" src="{_data_uri(heat.picture)}" alt="Map of where the answer comes from">'
        captions.append(_legend(heat))
    if note:
        captions.append(f'<p class="quiet">{escape(note)}</p>')
    caption = f"<figcaption>{''.join(captions)}</figcaption>" if captions else ""
    return f'<figure class="viewer"><div class="layers">{layers}</div>{caption}</figure>'


def answer(question: str, reply: Reply, record: dict) -> str:
    """The answer with its confidence, the alternatives, the classes, and the audit record to download."""
    how = "calibrated on validation" if reply.calibrated else "not calibrated"
    text = escape(reply.answer.text) or "<em>an empty answer</em>"
    parts = [
        f'<p class="quiet">{escape(question)}</p>',
        f'<p class="answer">{text}</p>',
        f'<p class="confidence">Confidence <strong>{_probability(reply.answer.confidence)}</strong> '
        f'<span class="quiet">geometric mean of the probabilities of its tokens, {how}</span></p>',
    ]
    if reply.options:
        likely = [some for some in reply.options if some.probability >= LEAST or some.text == reply.answer.text]
        parts.append(_bars("Answers considered", "probability of each as a whole", likely))
    if reply.classes:
        note = (
            f"the {CLASSES} most probable of {len(reply.classes)}" if len(reply.classes) > CLASSES else "of the head"
        )
        parts.append(_bars("Classes", note, reply.classes[:CLASSES]))
    parts.append(
        f'<p><a class="audit" download="answer-{_file_name(record["time"])}.json" href="{_json_uri(record)}">'
        'Download the audit record <span class="quiet">JSON, without the image</span></a></p>'
    )
    return f'<article class="card">{"".join(parts)}</article>'


def examples(given: Sequence[tuple[Upload, str, str]]) -> str:
    """The few-shot examples so far."""
    if not given:
        return '<p class="quiet">No examples: the question is asked alone.</p>'
    lines = [
        f'<li><img src="{_data_uri(upload.image)}" alt="">'
        f"<span>{escape(question)}<br><strong>{escape(said)}</strong></span></li>"
        for upload, question, said in given
    ]
    return f'<ol class="examples">{"".join(lines)}</ol>'


def error(message: str) -> str:
    """What went wrong and the way out, as a sentence."""
    return f'<div class="error" role="alert"><strong>Not possible:</strong> {escape(message)}.</div>'


def thumbnail_style(selector: str, image: Image.Image) -> str:
    """A rule that puts a picture on a button."""
    return f'{selector} {{ background-image: url("{_data_uri(fit(image, 192))}") }}\n'


def _legend(heat: Heat) -> str:
    if heat.empty:
        scale = "<p>By this method no place of the image had a part in the answer.</p>"
    else:
        low, high = (
            ("against the answer", "for the answer") if heat.signed else ("no contribution", "largest contribution")
        )
        colours = f'<span class="scale" style="background: linear-gradient(to right, {gradient(heat.signed)})"></span>'
        scale = f'<p class="legend"><span>{low}</span>{colours}<span>{high}</span></p>'
    how = f"{heat.method.replace('_', ' ')} ({heat.details}); target: {heat.target}"
    return f'{scale}<p class="quiet">{escape(how)}</p>'


def _bars(title: str, note: str, options: Sequence[Option]) -> str:
    lines = [
        f'<li><span class="name">{escape(option.text)}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width: {100 * option.probability:.1f}%"></i></span>'
        f'<span class="number">{_probability(option.probability)}</span></li>'
        for option in options
    ]
    heading = f'<h2>{escape(title)} <span class="quiet">{escape(note)}</span></h2>'
    return f'<section>{heading}<ol class="bars">{"".join(lines)}</ol></section>'


def _probability(p: float) -> str:
    """Three digits, but neither certain nor impossible."""
    return "&lt;0.001" if p < 0.001 else "&gt;0.999" if p > 0.999 else f"{p:.3f}"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return data_uri(buffer.getvalue(), "png")


def _json_uri(record: dict) -> str:
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return f"data:application/json;base64,{b64encode(text.encode()).decode()}"


def _file_name(time: str) -> str:
    """2026-01-31T12:00:00+00:00 → 20260131T120000."""
    return time.partition("+")[0].replace("-", "").replace(":", "")
