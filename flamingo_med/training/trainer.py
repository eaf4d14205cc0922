"""FlamingoMedTrainer: a `transformers.Trainer` that evaluates by answering questions."""

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from pyarrow.compute import list_value_length
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from flamingo_med.common.settings import build_arguments
from flamingo_med.evaluation.intervals import clustered_bootstrap
from flamingo_med.inference.answering import Answer, answer_questions
from flamingo_med.inference.features import store_features
from flamingo_med.inference.readable_rows import all_bad_images, check_images, check_texts
from flamingo_med.metrics.exact_match import exact_match
from flamingo_med.reporting.model_card import refresh_card
from flamingo_med.training.checkpoints import MAKE_ROOM, begin_checkpoint
from flamingo_med.training.hub_mixin import HubMixin
from flamingo_med.training.identity import seal
from flamingo_med.training.matmul import choose_matmul
from flamingo_med.training.report_callback import RunReport
from flamingo_med.training.sampler import EndlessRows, EpochRows, ImageGroupedBatchSampler
from modeling_flamingo_med.layers_flamingo_med import FlamingoMedGate
from modeling_flamingo_med.modeling_flamingo_med import FlamingoMedForConditionalGeneration, labelled_positions
from processing.augmentation import Augmentation
from processing.collator import FlamingoMedCollator, FlamingoMedTrainingCollator
from processing.errors import InputError, check_keys, disk_errors
from processing.files import write_json
from processing.processing_flamingo_med import FlamingoMedProcessor

logger = logging.getLogger(__name__)

# What an evaluation may report, and `metric_for_best_model` be, with eval_ before it or without.
METRICS = (
    *("loss", "class_accuracy", "exact_match", "exact_match_closed", "exact_match_open"),
    *("exact_match_low", "exact_match_high"),
)
# Settings that count something, and the least that they may be.
LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_new_tokens", "shuffle_buffer"), 1),
    "dataloader_num_workers": 0,
}


@dataclass
class FlamingoMedTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments`, and what is ours."""

    output_dir: str = field(default="runs/flamingo-med", metadata={"help": "folder of the run and of its best model"})
    max_new_tokens: int = field(default=16, metadata={"help": "longest generated answer, in tokens"})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "stop after so many evaluations in which metric_for_best_model got no better; never if unset"
        },
    )
    resume_from_checkpoint: str | bool | None = field(
        default=None,
        metadata={"help": "true: resume from the last checkpoint in output_dir, if any; or its folder"},
    )
    accept_changes: bool = field(
        default=False,
        metadata={
            "help": "resume though data, seed or settings are others than before, or the best checkpoint is lost"
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "no: the collator needs all columns"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "where there is a GPU to copy to"}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "what a validation batch must have to have a loss"}
    )
    train_on_questions: bool = field(
        default=False,
        metadata={"help": "train on the tokens of the questions too; the validation loss is that of answers alone"},
    )
    packing: bool = field(
        default=True, metadata={"help": "put the questions of a training batch end to end, without padding"}
    )
    bucket_lengths: bool = field(
        default=True,
        metadata={"help": "without packing: rows of similar length in a batch, which saves padding and mixes less"},
    )
    store_features: bool = field(
        default=True,
        metadata={"help": "with a frozen image encoder and no augmentation, encode every image once and for all"},
    )
    fast_matmul: bool = field(
        default=False,
        metadata={"help": "on a CPU: take oneDNN instead of MKL where a check at the start finds it faster, as exact"},
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "rows of a stream held in memory to shuffle it"})
    augmentation: dict = field(
        default_factory=dict,
        metadata={"help": "rotation (degrees), crop, contrast, exposure: --augmentation.crop 0.1"},
    )
    prediction_loss_only: bool = field(
        default=True, metadata={"help": "yes: answers are generated, not taken from logits"}
    )

    def __post_init__(self):
        super().__post_init__()
        build_arguments(self.augmentation, Augmentation)  # a mistake in it is found before any data are read
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is at least {least}, got {getattr(self, name)}")
        if self.metric_for_best_model is not None:
            check_keys([self.best_metric], METRICS, "metric_for_best_model")
        self.check_trackers()
        without_metric = self.metric_for_best_model is None or self.eval_strategy == "no"
        if self.early_stopping_patience is not None and without_metric:
            raise InputError("early_stopping_patience needs metric_for_best_model and an eval_strategy")
        if self.label_smoothing_factor:  # Trainer would smooth towards tokens that have not been shifted
            raise InputError(
                "label_smoothing_factor is for other models; a head has model.classification_label_smoothing"
            )
        if self.hub_token is not None:  # run.json and recipe.yaml hold all settings
            raise InputError("hub_token is a secret, not a setting; run `hf auth login`, or set HF_TOKEN")

    @property
    def best_metric(self) -> str:
        """`metric_for_best_model` by its name among `METRICS`."""
        return self.metric_for_best_model.removeprefix("eval_")

    def check_trackers(self) -> None:
        """Refuse trackers (`report_to`) that are unknown or not installed.

        Raises:
            InputError: names the tracker.
        """
        check_keys(self.report_to, INTEGRATION_TO_CALLBACK, "tracker (report_to)")
        installed = {*get_available_reporting_integrations(), "flyte", "azure_ml"}  # which it does not tell of
        for name in self.report_to:
            if name not in installed:
                raise InputError(f"report_to {name} needs a library that is not installed, see pip install {name}")


class _Progress(ProgressCallback):
    """The progress bar, and what is logged but for the gates, which would fill the screen."""

    def on_log(self, args, state, control, logs: dict | None = None, **kwargs) -> None:
        shown = {name: value for name, value in (logs or {}).items() if not name.startswith("gate_")}
        super().on_log(args, state, control, logs=shown, **kwargs)


class _EarlyStopping(EarlyStoppingCallback):
    """As in `transformers`; a run that resumes from a checkpoint keeps its count."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        if isinstance(saved, dict):
            counted = saved.get("attributes", {}).get("early_stopping_patience_counter", 0)
            self.early_stopping_patience_counter = counted


class _BestCheckpoint(TrainerCallback):
    """Tells a resumed run where its best checkpoint lies now; one that is lost is forgotten with its score."""

    path: str | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        place_best(state, self.path)


class FlamingoMedTrainer(HubMixin, Trainer):
    """Trains on rows of `processing.datasets.FEATURES`; evaluates validation loss and exact match.

    A training data set that is streamed passes by without end, a share of it in each process; `max_steps` says when to
    stop, and evaluation and checkpoints are due by steps.

    Args:
        model: the model.
        args: the training arguments.
        processing_class: the model's processor, saved with every checkpoint.
        train_dataset, eval_dataset: rows.
        kwargs: other arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        model: FlamingoMedForConditionalGeneration,
        args: FlamingoMedTrainingArguments,
        processing_class: FlamingoMedProcessor,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | None = None,
        **kwargs,
    ):
        if args.n_gpu > 1:  # torch's DataParallel would split the images of a batch apart from its questions
            raise InputError("several GPUs need a process each: use accelerate launch, or CUDA_VISIBLE_DEVICES=0")
        streams = isinstance(train_dataset, IterableDataset)
        if streams and args.max_steps <= 0:
            raise InputError("a streamed data set has no length, so say how long to train: --max_steps 10000")
        if args.train_on_questions and model.config.num_labels:
            raise InputError("train_on_questions leaves no prompt, at whose end a head reads; train one or the other")
        if args.packing and model.config.resampler_max_images:
            raise InputError("this model numbers the images of a row, so rows cannot be packed: --packing false")
        classes = {
            "label2id": model.config.label2id,
            "multi_label": model.config.problem_type == "multi_label_classification",
        }
        (augmentation,) = build_arguments(args.augmentation, Augmentation)
        self.training_collator = FlamingoMedTrainingCollator(
            processing_class,
            augmentation=augmentation,
            seed=args.seed,
            packed=args.packing,
            train_on_questions=args.train_on_questions,
            **classes,
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=FlamingoMedCollator(processing_class, answers=True, **classes),
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        if self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            raise InputError("FSDP has to save whole weights: set fsdp_state_dict_type to FULL_STATE_DICT")
        if args.early_stopping_patience is not None:
            self.add_callback(_EarlyStopping(args.early_stopping_patience))
        if self.pop_callback(ProgressCallback):
            self.add_callback(_Progress)
        self.report = RunReport()
        self.add_callback(self.report)
        if args.fast_matmul and args.device.type == "cpu":
            logger.info(choose_matmul())
        if args.metric_for_best_model is not None and args.eval_strategy != "no" and eval_dataset is not None:
            check_keys([args.best_metric], self.metrics_of(eval_dataset), "metric_for_best_model of these rows")
        self.features = None
        given = {"the train split": train_dataset, "the validation split": eval_dataset}
        data_sets = {name: rows for name, rows in given.items() if isinstance(rows, Dataset) and len(rows)}
        for name, rows in data_sets.items():
            answered = args.max_new_tokens if rows is eval_dataset else 0
            check_texts(model, processing_class, rows, name, answers=True, new_tokens=answered)
            self.check_images(rows)
        trains = any(p.requires_grad for p in model.vision_encoder.parameters())
        if args.store_features and not (trains or streams) and augmentation == Augmentation():
            started = time.perf_counter()
            with all_bad_images(data_sets):
                self.features = store_features(
                    model, processing_class, data_sets.values(), progress=self.shows_progress
                )
            self.report.seconds_of_features = time.perf_counter() - started
            self.data_collator.features = self.training_collator.features = self.features
        else:
            for name, rows in data_sets.items():
                check_images(rows, name)

    @torch.no_grad()
    def check_images(self, rows: Dataset) -> None:
        """Encode the row that has most images: what does not fit is found before hours of work.

        Raises:
            InputError: images of another size than the model takes, or more of them.
        """
        parts = rows.select_columns("more_images").with_format("arrow").iter(1000)
        numbers = [number for part in parts for number in list_value_length(part["more_images"]).to_pylist()]
        images = self.data_collator.pixels({"": rows[numbers.index(max(numbers))]})
        was_training = self.model.training
        self.model.eval()  # dropout would draw random numbers
        try:
            self.model.encode_images(**{name: value.to(self.model.device) for name, value in images.items()})
        except ValueError as error:
            raise InputError(f"the images do not fit the model: {error}") from None
        finally:
            self.model.train(was_training)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of training rows, each with its epoch, from a collator of their own: `data_collator` evaluates."""
        rows, args = self.train_dataset, self.args
        settings = {
            "collate_fn": self.training_collator,
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        if isinstance(rows, IterableDataset):
            rows = split_dataset_by_node(rows, args.process_index, args.world_size)
            if args.dataloader_num_workers > rows.num_shards:
                raise InputError(
                    f"{args.dataloader_num_workers} workers, but only {rows.num_shards} shards for a process to give "
                    "them; lower --dataloader_num_workers"
                )
            rows = EndlessRows(rows, args.seed, args.shuffle_buffer)
            return DataLoader(rows, batch_size=self._train_batch_size, **settings)
        sampler = self.sampler(
            rows, self._train_batch_size, not args.packing and args.bucket_lengths, args.dataloader_drop_last
        )
        loader = DataLoader(EpochRows(rows), batch_sampler=sampler, **settings)
        # Both kinds are this process's share already: accelerate is not to divide them again, but to count epochs.
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """As in `transformers`: no decay on norms and biases; none on gates and resampler either."""
        return [
            name
            for name in super().get_decay_parameter_names(model)
            if "resampler." not in name and not name.endswith("_gate.alpha")
        ]

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As in `transformers`, with how far the gates are open: tanh(α) of each layer."""
        if "loss" in logs:
            for i, layer in enumerate(self.accelerator.unwrap_model(self.model).cross_attn):
                logs[f"gate_attn_{i}"] = opening(layer.attn_gate)
                logs[f"gate_ff_{i}"] = opening(layer.ff_gate)
        super().log(logs, *args, **kwargs)

    def compute_loss(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> Tensor:
        """As in `transformers`, with logits only where a label needs them."""
        return super().compute_loss(model, self.only_needed_logits(inputs), *args, **kwargs)

    def only_needed_logits(self, inputs: dict) -> dict:
        """A batch whose forward makes logits only where a label needs them.

        Which positions those are depends on the data, so a compiled model takes all.
        """
        if self.args.torch_compile:
            return inputs
        return {**inputs, "logits_to_keep": labelled_positions(inputs["labels"])}

    def training_step(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> Tensor:
        """As in `transformers`; a non-finite loss ends the training, and its rows are written down."""
        row_ids = inputs.pop("row_ids")
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not loss.isfinite():
            path = Path(self.args.output_dir, f"not_finite-{self.args.process_index}.json")
            write_json(path, {"step": self.state.global_step, "loss": str(loss.item()), "row_ids": row_ids})
            raise InputError(
                f"the loss of step {self.state.global_step} is {loss.item()}; the ids of its rows are in {path}. "
                "A lower --learning_rate or --max_grad_norm may help"
            )
        return loss

    def get_batch_samples(self, *args, **kwargs) -> tuple[list, Tensor | int | None]:
        """As in `transformers`; each batch also gets how many known classes all of them have together."""
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        if batches and "class_labels" in batches[0]:
            known = sum((batch["class_labels"] >= 0).sum() for batch in batches)
            if self.args.average_tokens_across_devices:
                known = self.accelerator.gather(known.to(self.args.device)).sum()
            for batch in batches:
                batch["num_classes_in_batch"] = known
        return batches, num_items_in_batch

    def train(self, resume_from_checkpoint: str | None = None, best_checkpoint: str | None = None, **kwargs):
        """As in `transformers`.

        Args:
            resume_from_checkpoint: folder of a checkpoint.
            best_checkpoint: where the best one so far lies, if there is one.
            kwargs: other arguments.
        """
        if resume_from_checkpoint:
            at_begin = _BestCheckpoint()
            at_begin.path = best_checkpoint
            self.add_callback(at_begin)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def finish(self, checkpoint: str, best_checkpoint: str | None) -> None:
        """What `train` does after its last step, for a checkpoint that was written at that; nothing is trained.

        Args:
            checkpoint: its folder.
            best_checkpoint: where the best one lies, if there is one.
        """
        logger.info(f"{checkpoint} is of the last step: nothing is left to train")
        self.state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        self.state.is_world_process_zero = self.is_world_process_zero()
        place_best(self.state, best_checkpoint)
        kept = best_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(kept or checkpoint)
        self.report.on_train_begin(self.args, self.state, self.control)
        self.report.on_train_end(self.args, self.state, self.control)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """As in `transformers`; but its manifest is written before it is pushed and before any other is deleted, and
        where the disk is full, nothing of it stays."""
        args, folder = self.args, Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        limit, pushes = args.save_total_limit, args.push_to_hub
        try:
            with disk_errors(folder, MAKE_ROOM):
                if args.should_save:
                    begin_checkpoint(folder)
                self.accelerator.wait_for_everyone()
                args.save_total_limit, args.push_to_hub = None, False
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process has written its random state
                if args.should_save:
                    ends, step = self.control.should_training_stop, self.state.global_step
                    seal(folder, Path(args.output_dir), step=step, final=ends, processes=args.world_size)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            args.save_total_limit, args.push_to_hub = limit, pushes
        if pushes:
            self._push_from_checkpoint(str(folder))
        if limit and args.should_save:
            delete_old_checkpoints(folder, limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle of the arguments, which nobody should load; the recipe says the same
            Path(output_dir or self.args.output_dir, "training_args.bin").unlink()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """As in `transformers`, which looks for the weights of parts under the names that these have in memory; in a
        checkpoint some have others."""
        inner = self.accelerator.unwrap_model(model or self.model)
        if self.is_fsdp_enabled or not isinstance(inner, FlamingoMedForConditionalGeneration):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            saved = type(inner).from_pretrained(resume_from_checkpoint, dtype=inner.dtype)
            inner.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        """As `_load_from_checkpoint`.

        Raises:
            InputError: it was damaged while the training went on.
        """
        try:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        except (OSError, ValueError) as error:
            raise InputError(f"the training has ended, but its best checkpoint cannot be loaded: {error}") from None

    def create_model_card(self) -> None:
        """README.md of a finished run; called before it is pushed too, in the place of the draft of `transformers`."""
        if self.is_world_process_zero():
            refresh_card(self.args.output_dir)

    def evaluation_loop(
        self, dataloader: DataLoader, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """Loss, accuracy of the head, exact match of the generated answers per answer type, and in all with its 95 %
        interval. Every row counts once, whatever the batches and the processes."""
        rows = dataloader.dataset
        metrics = self.losses(rows)
        hits = [exact_match(a.text, row["answers"]) for a, row in zip(self.answer(rows), rows, strict=True)]
        for subset in ("closed", "open"):
            of_subset = [hit for hit, kind in zip(hits, rows["answer_type"], strict=True) if kind == subset]
            if of_subset:
                metrics[f"exact_match_{subset}"] = sum(of_subset) / len(of_subset)
        metrics["exact_match"] = sum(hits) / len(hits)
        low, high = clustered_bootstrap(hits, rows["image_id"])
        if low is not None:
            metrics |= {"exact_match_low": low, "exact_match_high": high}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))

    def metrics_of(self, rows: Dataset) -> list[str]:
        """Those of `METRICS` that an evaluation of these rows reports."""
        kinds, several = {*rows["answer_type"]}, len({*rows["image_id"]}) > 1
        reported = {
            "class_accuracy": self.model.config.num_labels > 0,
            **{f"exact_match_{kind}": kind in kinds for kind in ("closed", "open")},
            **{f"exact_match_{end}": several for end in ("low", "high")},
        }
        return [name for name in METRICS if reported.get(name, True)]

    @torch.no_grad()
    def losses(self, rows: Dataset) -> dict[str, float]:
        """Mean loss of all labelled tokens; where there is a head, plus that of all known classes; its accuracy."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        totals = torch.zeros(5, dtype=torch.float64)  # of tokens: loss, number; of classes: loss, hits, number
        for batch in tqdm(self.batches(rows), desc="validation loss", leave=False, disable=not self.shows_progress):
            batch = self._prepare_inputs(batch)
            class_labels = batch.pop("class_labels", None)
            with self.compute_loss_context_manager():
                outputs = model(**self.only_needed_logits(batch), num_items_in_batch=1)
            totals[:2] += torch.stack([outputs.loss, (batch["labels"][:, 1:] != -100).sum()]).double().cpu()
            if class_labels is not None:
                logits, known = outputs.class_logits, class_labels >= 0
                chosen = logits.argmax(-1) if logits.ndim > class_labels.ndim else logits > 0
                hits = (chosen == class_labels) & known
                loss = model.class_loss(logits, class_labels, num_classes_in_batch=1)
                totals[2:] += torch.stack([loss, hits.sum(), known.sum()]).double().cpu()
        model.train(was_training)
        totals = self.accelerator.reduce(totals.to(self.args.device), "sum").tolist()
        metrics = {"loss": totals[0] / totals[1]}
        if totals[4]:
            metrics = {"loss": metrics["loss"] + totals[2] / totals[4], "class_accuracy": totals[3] / totals[4]}
        return metrics

    def batches(self, rows: Dataset) -> DataLoader:
        """This process's share of a data set in batches for evaluation, as many as of the other processes."""
        return DataLoader(
            EpochRows(rows),
            batch_sampler=self.sampler(rows, self.args.per_device_eval_batch_size, by_length=True),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def sampler(
        self, rows: Dataset, batch_size: int, by_length: bool, drop_last: bool = False
    ) -> ImageGroupedBatchSampler:
        """This process's share of the batches."""
        if len(rows) < self.args.world_size:
            raise InputError(f"{len(rows)} questions for {self.args.world_size} processes; use fewer of them")
        lengths = None
        if by_length:
            lengths = [len(q) + len(a) for q, a in zip(rows["question"], rows["answer"], strict=True)]
        return ImageGroupedBatchSampler(
            rows["image_id"],
            batch_size=batch_size,
            seed=self.args.seed,
            lengths=lengths,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            drop_last=drop_last,
        )

    @property
    def shows_progress(self) -> bool:
        """Whether this process is the one with progress bars."""
        return self.is_world_process_zero() and not self.args.disable_tqdm

    def answer(self, rows: Dataset) -> list[Answer]:
        """Answers to all rows, in their order; each process answers its share, which is of equal size."""
        indices = list(range(len(rows)))
        with self.accelerator.split_between_processes(indices, apply_padding=True) as share:
            answers = answer_questions(
                self.accelerator.unwrap_model(self.model),
                self.processing_class,
                rows.select(share),
                batch_size=self.args.per_device_eval_batch_size,
                features=self.features,
                max_new_tokens=self.args.max_new_tokens,
                description="answering" if self.shows_progress else None,
            )
        answers = dict(gather_object(list(zip(share, answers, strict=True))))
        return [answers[i] for i in indices]


def place_best(state: TrainerState, best_checkpoint: str | None) -> None:
    """Note in the state of a training where its best checkpoint lies; where it is lost, no step was the best."""
    if best_checkpoint is None and state.best_model_checkpoint is not None:
        state.best_metric = state.best_global_step = None
    state.best_model_checkpoint = best_checkpoint


def delete_old_checkpoints(newest: Path, limit: int, best: str | None) -> None:
    """Keep `limit` checkpoints of a run: the newest and the best ones always; those of later steps, which an earlier
    history has left, go first.

    Args:
        newest: the one that was just written.
        limit: how many are kept.
        best: the best one so far, if any.
    """
    kept = {newest} | ({Path(best)} if best else set())
    now = int(newest.name.split("-")[-1])
    steps = {path: int(path.name.split("-")[-1]) for path in newest.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*[0-9]")}
    oldest_first = sorted(steps, key=lambda path: (steps[path] <= now, steps[path]))
    surplus = len(steps) - max(limit, len(kept))
    for path in [path for path in oldest_first if path not in kept][: max(surplus, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def opening(gate: FlamingoMedGate) -> float:
    """tanh(α) of a gate, also where FSDP has split the weights over several processes."""
    alpha = gate.alpha.detach()
    return (alpha.full_tensor() if isinstance(alpha, DTensor) else alpha).tanh().item()
