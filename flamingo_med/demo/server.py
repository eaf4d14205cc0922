"""The page on the network: how much may be sent, by whom; no other host is asked, nothing is recorded."""

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextvars import ContextVar

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flamingo_med.demo.guard import PASSWORD, served_names
from flamingo_med.demo.login import MESSAGE, ClientAddress, Login

logger = logging.getLogger(__name__)

SESSIONS = 256  # beyond, the oldest is forgotten
BLOCK = 64 * 2**20  # bytes in which Pillow takes memory: so large ones go back to the system after a large image
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def serve(
    page: gr.Blocks,
    *,
    css: str,
    host: str,
    port: int,
    user: str | None,
    max_upload_mb: int,
    queue_size: int,
    host_names: Sequence[str] = (),
) -> None:
    """Serve the page until the process is stopped.

    Args:
        page: of `page.build_page`, made inside `guard.private_folder`.
        css: its CSS, of `page.build_page` too.
        host, port: the address.
        user: who must give the password in the environment variable `PASSWORD`; None for everybody.
        max_upload_mb: larger files are refused.
        queue_size: questions that may wait; those beyond are refused.
        host_names: by which a reverse proxy on this machine serves the page. Only with such is believed what it says
            of who asks; of a proxy on another machine, where `FORWARDED_ALLOW_IPS` names its address.
    """
    Image.core.set_block_size(BLOCK)
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1" if host_names else "")
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # gradio asks its own page once, which no proxy can reach
    page.queue(max_size=queue_size, default_concurrency_limit=4)
    page.launch(
        server_name=host,
        server_port=port,
        auth=Login(user, os.environ[PASSWORD]).check if user else None,
        auth_message=MESSAGE,
        max_file_size=f"{max_upload_mb}mb",
        state_session_capacity=SESSIONS,
        theme=_theme(),
        css=css,
        footer_links=[],
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,  # gradio would keep questions and answers in the browser
        quiet=True,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, served_names(host, host_names), www_redirect=False),
                Middleware(SecurityHeaders),
                Middleware(ClientAddress),
                Middleware(FolderPerUpload),
            ]
        },
        prevent_thread_lock=True,
    )
    page.app.uploaded_file_dir = _UploadFolder()
    logger.info(f"the page is at {page.local_url} (Ctrl-C ends it). Not for clinical use.")
    page.block_thread()


def _theme() -> gr.themes.Base:
    """Fonts of the system only, since others would be fetched; buttons dark enough for their white text."""
    theme = gr.themes.Base(
        primary_hue="sky",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    rest, hover = "*primary_700", "*primary_800"
    return theme.set(
        button_primary_background_fill=rest,
        button_primary_background_fill_dark=rest,
        button_primary_background_fill_hover=hover,
        button_primary_background_fill_hover_dark=hover,
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        border_color_primary="*neutral_300",
    )


class SecurityHeaders:
    """ASGI middleware: forbids the browser to ask other hosts, whatever the page or what is shown in it says."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, send_guarded)


_folder: ContextVar[str | None] = ContextVar("folder", default=None)


class FolderPerUpload:
    """ASGI middleware: a folder for each upload, since gradio keeps equal files as one, and whoever is first with it
    deletes it. The folder of an upload that fails is removed."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            return await self.app(scope, receive, send)
        arrived = False

        async def watch(message: Message) -> None:
            nonlocal arrived
            if message["type"] == "http.response.start":
                arrived = message["status"] == 200
            await send(message)

        folder = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
        _folder.set(folder)
        try:
            await self.app(scope, receive, watch)
        finally:
            if not arrived:
                shutil.rmtree(folder, ignore_errors=True)


class _UploadFolder(os.PathLike):
    """The folder of the current upload, in the place of the one that gradio has for all."""

    def __fspath__(self) -> str:
        return _folder.get() or os.environ["GRADIO_TEMP_DIR"]
