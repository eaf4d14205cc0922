"""The page in gradio: what stands where, and which event calls what."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from flamingo_med.demo import fragments
from flamingo_med.demo.examples import QUESTIONS, draw_examples
from flamingo_med.demo.session import NO_MAP, Assistant, Memory, Session
from flamingo_med.demo.upload import Upload
from processing.errors import InputError

FORGET_AFTER = 15 * 60  # seconds that an image stays in memory
METHODS = [
    ("Occlusion", "occlusion"),
    ("Integrated gradients", "integrated_gradients"),
    ("Grad-CAM", "grad_cam"),
    ("Attention rollout", "attention"),
    ("Attention × gradients", "attention_gradients"),
    ("No map", NO_MAP),
]
SET_OPACITY = "(value) => { document.documentElement.style.setProperty('--heat', value); }"
ANNOUNCE_ANSWERS = "() => { document.getElementById('answer').setAttribute('aria-live', 'polite'); }"
# The model answers one question at a time, whoever asks.
ON_MODEL = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
BESIDE = {"api_visibility": "private"}
# One image is decoded at a time, which for the largest takes a gigabyte for a moment.
ON_IMAGE = {"concurrency_id": "image", "concurrency_limit": 1, "api_visibility": "private"}
Use = Callable[[Session], None]


def build_page(assistant: Assistant, memory: Memory) -> tuple[gr.Blocks, str]:
    """The page of one model, with so much memory for images, and its CSS."""
    drawn = {title: Upload.drawn(image, title, assistant.see) for title, image in draw_examples().items()}

    def pages(session: Session) -> list[str]:
        kept = page.state_holder.session_data.items()
        return [key for key, state in list(kept) if any(one is session for one in state.state_data.values())]

    def forget(session: Session) -> None:
        """Drop all that gradio keeps of a page: besides the session, what it has shown, pictures too."""
        for key in pages(session):
            page.state_holder.session_data.pop(key, None)

    def use(session: Session) -> None:
        """Keep within the memory; of pages whose images are dropped, gradio keeps no pictures either."""
        for dropped in memory.use(session):
            for key in pages(dropped):
                page.state_holder.session_data[key].config_values.clear()

    def close(request: gr.Request) -> None:
        page.state_holder.delete_state(request.session_hash)  # of itself, gradio would keep it for an hour

    with gr.Blocks(title="Ask about a medical image", analytics_enabled=False, delete_cache=(60, 60)) as page:
        session = gr.State(Session(), time_to_live=FORGET_AFTER, delete_callback=forget)
        gr.HTML(fragments.header(assistant.description["name"]))
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                image = _image_side(drawn)
            with gr.Column(scale=5, min_width=320):
                asked = _question_side()
                few_shot = _few_shot_panel()
        _connect_image(session, image, asked["answer"], few_shot["list"], drawn, assistant, use)
        _connect_question(session, image, asked, few_shot["list"], assistant, use)
        _connect_few_shot(session, few_shot, assistant, use)
        page.load(None, js=ANNOUNCE_ANSWERS)
        page.unload(close)
    return page, _style(drawn)


def _style(drawn: dict[str, Upload]) -> str:
    thumbnails = [fragments.thumbnail_style(f"#example-{i}", shown.image) for i, shown in enumerate(drawn.values())]
    return Path(__file__).with_suffix(".css").read_text(encoding="utf-8") + "".join(thumbnails)


def _file(label: str, elem_id: str) -> gr.File:
    """Of gradio's own, an empty file would stay beside each that is sent."""
    file = gr.File(label=label, height=140, elem_id=elem_id)
    file.preprocess = lambda sent: sent and sent.path
    return file


def _image_side(drawn: dict[str, Upload]) -> dict:
    """Upload, examples, window, the image and its map."""
    part = {"file": _file("Image (PNG, JPEG, TIFF or DICOM)", "file")}
    with gr.Row(elem_classes="thumbnails"):
        part["examples"] = [
            gr.Button(title, elem_id=f"example-{i}", elem_classes="thumbnail", size="sm")
            for i, title in enumerate(drawn)
        ]
    part["problem"] = gr.HTML(elem_id="problem", elem_classes="problem")
    part["viewer"] = gr.HTML(fragments.EMPTY_VIEWER, elem_id="viewer")
    part["frame"] = gr.Slider(label="Frame", minimum=1, maximum=2, step=1, visible=False, elem_id="frame")
    with gr.Row(visible=False, elem_id="window") as part["window"]:
        part["center"] = gr.Slider(label="Window level", step=1)
        part["width"] = gr.Slider(label="Window width", minimum=1, step=1)
    with gr.Row(elem_id="map"):
        part["method"] = gr.Dropdown(METHODS, value=METHODS[0][1], label="Map of the answer", elem_id="method")
        part["opacity"] = gr.Slider(0, 1, value=0.7, step=0.05, label="Opacity of the map", elem_id="opacity")
    return part


def _question_side() -> dict:
    """Question, suggestions and answer."""
    part = {
        "question": gr.Textbox(
            label="Question", placeholder=QUESTIONS[0], lines=1, max_lines=1, max_length=500, elem_id="question"
        )
    }
    with gr.Row(elem_classes="chips"):
        part["suggestions"] = [gr.Button(question, size="sm", elem_classes="chip") for question in QUESTIONS]
    part["ask"] = gr.Button("Ask", variant="primary", elem_id="ask")
    part["answer"] = gr.HTML(fragments.NO_ANSWER, elem_id="answer")
    return part


def _few_shot_panel() -> dict:
    """Examples that the model sees before the question."""
    with gr.Accordion("Advanced: examples before the question (few-shot)", open=False, elem_id="few-shot"):
        part = {
            "file": _file("Image of the example", "few-shot-file"),
            "question": gr.Textbox(label="Its question", max_length=500, elem_id="few-shot-question"),
            "answer": gr.Textbox(label="Its answer", max_length=500, elem_id="few-shot-answer"),
        }
        with gr.Row():
            part["add"] = gr.Button("Add the example", elem_id="few-shot-add")
            part["remove"] = gr.Button("Remove all", elem_id="few-shot-remove")
        part["problem"] = gr.HTML(elem_classes="problem")
        part["list"] = gr.HTML(fragments.examples([]), elem_id="few-shot-list")
    return part


def _connect_image(
    session: gr.State,
    image: dict,
    answer: gr.HTML,
    few_shot: gr.HTML,
    drawn: dict[str, Upload],
    assistant: Assistant,
    use: Use,
) -> None:
    changed = [session, image["viewer"], answer, image["problem"]]
    controls = [few_shot, *(image[name] for name in ("frame", "window", "center", "width"))]

    def show(state: Session, upload: Upload | None, problem: str = "") -> list:
        state.show(upload)
        use(state)
        viewer = fragments.viewer(upload) if upload else fragments.EMPTY_VIEWER
        changes = [state, viewer, fragments.NO_ANSWER, problem, fragments.examples(state.examples)]
        number, frames = (upload.frame + 1, upload.frames) if upload else (1, 1)
        frame = gr.Slider(value=number, maximum=max(frames, 2), visible=frames > 1)
        grey = upload.grey if upload else None
        if grey is None:
            return [*changes, frame, gr.Row(visible=False), gr.skip(), gr.skip()]
        middle, extent = upload.window or (grey.center, grey.width)
        center = gr.Slider(minimum=min(grey.lowest, middle), maximum=max(grey.highest, middle), value=middle)
        width = gr.Slider(maximum=max(grey.highest - grey.lowest, extent), value=extent)
        return [*changes, frame, gr.Row(visible=True), center, width]

    def take(state: Session, path: str) -> list:
        try:
            return show(state, Upload.take(path, assistant.see))
        except InputError as error:
            return show(state, None, fragments.error(str(error)))

    def set_frame(state: Session, number: float | None) -> list:
        if number is None:  # it is being typed
            return [gr.skip()] * len(changed + controls)
        if state.upload is None:
            return show(state, None, fragments.error(state.why_no_image))
        try:
            return show(state, state.upload.at(int(number) - 1))
        except InputError as error:
            return [gr.skip()] * 3 + [fragments.error(str(error))] + [gr.skip()] * len(controls)

    def set_window(state: Session, center: float | None, width: float | None) -> list:
        if center is None or width is None:  # a number is being typed
            return [gr.skip()] * len(changed)
        if state.upload is None:
            return [state, fragments.EMPTY_VIEWER, fragments.NO_ANSWER, fragments.error(state.why_no_image)]
        if state.upload.grey is None:
            return [gr.skip()] * len(changed)
        try:
            state.show(state.upload.through(center, width))
            use(state)
        except InputError as error:
            return [gr.skip(), gr.skip(), gr.skip(), fragments.error(str(error))]
        return [state, fragments.viewer(state.upload), fragments.NO_ANSWER, ""]

    outputs = changed + controls
    image["file"].upload(take, [session, image["file"]], outputs, **ON_IMAGE)
    image["file"].clear(lambda state: show(state, None), session, outputs, **BESIDE)
    for button, example in zip(image["examples"], drawn.values(), strict=True):
        button.click(
            lambda state, example=example: [*show(state, example), None], session, [*outputs, image["file"]], **BESIDE
        )
    live = {
        "preprocess": False,  # which would end in a traceback where a number is out of the slider's range
        "trigger_mode": "always_last",
        "show_progress": "hidden",
        **ON_IMAGE,
    }
    image["frame"].input(set_frame, [session, image["frame"]], outputs, **live)
    for slider in (image["center"], image["width"]):
        slider.input(set_window, [session, image["center"], image["width"]], changed, **live)


def _connect_question(
    session: gr.State, image: dict, asked: dict, few_shot: gr.HTML, assistant: Assistant, use: Use
) -> None:
    def answer(state: Session, question: str) -> tuple[Session, str, str]:
        use(state)
        examples = fragments.examples(state.examples)  # those on the page may be forgotten by now
        try:
            return state, assistant.answer(state, question), examples
        except InputError as error:
            return state, fragments.error(str(error)), examples

    explanation = {
        "fn": assistant.explain,
        "inputs": [session, image["method"]],
        "outputs": image["viewer"],
        "show_progress": "minimal",
        **ON_MODEL,
    }
    triggers = [asked["ask"].click, asked["question"].submit]
    outputs = [session, asked["answer"], few_shot]
    gr.on(triggers, answer, [session, asked["question"]], outputs, **ON_MODEL).then(**explanation)
    image["method"].input(**explanation)
    image["opacity"].input(None, image["opacity"], js=SET_OPACITY, api_visibility="private")
    for button, question in zip(asked["suggestions"], QUESTIONS, strict=True):
        button.click(None, None, asked["question"], js=f"() => {question!r}", api_visibility="private")


def _connect_few_shot(session: gr.State, part: dict, assistant: Assistant, use: Use) -> None:
    def take(state: Session, path: str) -> tuple[Session, str]:
        state.pending = None
        try:
            state.pending = Upload.take(path, assistant.see).as_example()
        except InputError as error:
            return state, fragments.error(str(error))
        use(state)
        return state, ""

    def forget(state: Session) -> None:
        state.pending = None

    def add(state: Session, question: str, answer: str) -> list:
        try:
            state.add_example(question, answer)
        except InputError as error:
            return [gr.skip()] * 4 + [fragments.error(str(error))]
        return [fragments.examples(state.examples), None, "", "", ""]

    def remove(state: Session) -> tuple[str, str]:
        state.examples.clear()
        return fragments.examples([]), ""

    part["file"].upload(take, [session, part["file"]], [session, part["problem"]], **ON_IMAGE)
    part["file"].clear(forget, session, None, **BESIDE)
    outputs = [part[name] for name in ("list", "file", "question", "answer", "problem")]
    part["add"].click(add, [session, part["question"], part["answer"]], outputs, **BESIDE)
    part["remove"].click(remove, session, [part["list"], part["problem"]], **BESIDE)
