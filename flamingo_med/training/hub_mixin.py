"""HubMixin: what a Trainer does with --push_to_hub, in the place of its own."""

import logging
import shlex
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import upload_folder
from transformers.trainer_utils import HubStrategy

from flamingo_med.common.hub import hub_errors, make_repository, reason, upload_model

logger = logging.getLogger(__name__)


class HubMixin:
    """For a subclass of `transformers.Trainer`: the repository comes first, checkpoints follow in the background.

    A push that fails during training is logged and does not end it; the next one brings everything.
    """

    pushes: Sequence[Future] = ()

    def init_hf_repo(self) -> None:
        """Make the repository ready, before any training.

        Raises:
            InputError: the Hub does not let us, or cannot be reached.
        """
        if self.is_world_process_zero():
            args = self.args
            repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
            with hub_errors(f"{repo_id} cannot be made ready on the Hub, as --push_to_hub asks"):
                private, revision = args.hub_private_repo, args.hub_revision
                self.hub_model_id = make_repository(repo_id, private=private, revision=revision)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `transformers`; what is not a checkpoint is pushed by `push_to_hub` alone, once all of it is there."""
        super().save_model(output_dir, _internal_call=True)

    def push_to_hub(self, commit_message: str = "End of training") -> None:
        """Push the finished run: what `save_model` has written, with its card, recipe and run.json.

        Raises:
            InputError: it could not be pushed; says how to do it later.
        """
        if not self.is_world_process_zero():
            return
        self._finish_current_push()
        self.create_model_card()
        folder, revision = self.args.output_dir, self.args.hub_revision
        later = ["flamingo-med", "publish", "model", str(Path(folder).absolute()), self.hub_model_id]
        later += ["--revision", revision] if revision else []
        with hub_errors(f"the finished run is in {folder}, but not on the Hub; push it by `{shlex.join(later)}`"):
            logger.info(f"pushed: {upload_model(folder, self.hub_model_id, commit_message, revision).commit_url}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background: its model and, by hub_strategy, all that it takes to resume from it.

        Right from its folder: `transformers` would push a copy in output_dir that lacks the code. As an old checkpoint
        is deleted when a new one is there, the last push ends first, and nothing outlasts the training.
        """
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        self._finish_current_push()
        message = f"Training in progress, step {self.state.global_step}"
        revision = self.args.hub_revision
        pushes = [upload_model(checkpoint_folder, self.hub_model_id, message, revision, run_as_future=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = strategy == HubStrategy.CHECKPOINT
            pushes.append(
                upload_folder(
                    repo_id=self.hub_model_id,
                    folder_path=checkpoint_folder,
                    path_in_repo="last-checkpoint" if last else Path(checkpoint_folder).name,
                    commit_message=f"{message}, checkpoint",
                    revision=revision,
                    run_as_future=True,
                )
            )
        self.pushes = pushes
        if self.control.should_training_stop:
            self._finish_current_push()

    def _finish_current_push(self) -> None:
        for push in self.pushes:
            if error := push.exception():
                logger.warning(f"a checkpoint could not be pushed to {self.hub_model_id}: {reason(error)}")
        self.pushes = ()
