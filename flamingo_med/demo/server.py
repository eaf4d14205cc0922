"""The page on the network: how much may be sent, by whom; no other host is asked, nothing is recorded."""

import logging
import os

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flamingo_med.demo.guard import PASSWORD

logger = logging.getLogger(__name__)

SESSIONS = 32  # that hold an image; beyond, the oldest is forgotten
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
    page: gr.Blocks, *, css: str, host: str, port: int, user: str | None, max_upload_mb: int, queue_size: int
) -> None:
    """Serve the page until the process is stopped.

    Args:
        page: of `page.build_page`, made inside `guard.private_folder`.
        css: its CSS, of `page.build_page` too.
        host, port: the address.
        user: who must give the password in the environment variable `PASSWORD`; None for everybody.
        max_upload_mb: larger files are refused.
        queue_size: questions that may wait; those beyond are refused.
    """
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # gradio asks its own page once, which no proxy can reach
    page.queue(max_size=queue_size, default_concurrency_limit=4)
    page.launch(
        server_name=host,
        server_port=port,
        auth=(user, os.environ[PASSWORD]) if user else None,
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
        app_kwargs={"middleware": [Middleware(SecurityHeaders)]},
        prevent_thread_lock=True,
    )
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
