"""Train a model by a recipe.

RECIPE is the name of a packaged recipe (see flamingo-med recipes) or a YAML file. Every setting in
it can be overridden, those of the model as --model.resampler_depth 2, and so can every argument of
transformers.TrainingArguments. The best model ends in output_dir, where from_pretrained loads it.

  flamingo-med train phantom --output_dir runs/one
  flamingo-med train vqa_rad --init_from runs/mimic_cxr --data_dir data/vqa_rad
  accelerate launch -m flamingo_med.cli.train vqa_rad --data_dir data/vqa_rad

--print_config shows the resulting recipe. --estimate_memory 64 tells what a device needs for a
step of questions of 64 tokens, without data or weights.
"""

from accelerate import PartialState

from flamingo_med.cli.main import run_command
from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.settings import build_arguments, override, read_recipe
from flamingo_med.training.memory import estimate_memory, format_memory
from flamingo_med.training.run import KINDS, as_yaml, next_command, train_by_settings
from flamingo_med.training.starting_point import ModelArguments, loading_errors
from flamingo_med.training.trainer import FlamingoMedTrainingArguments
from modeling_flamingo_med.backbones_flamingo_med import part_config
from processing.errors import InputError

OFTEN = (
    *("dataset", "data_dir", "vision", "text", "init_from", "output_dir", "resume_from_checkpoint"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "seed"),
)
SHORTER = {
    "num_train_epochs": "passes over the training rows",
    "max_steps": "steps, in the place of epochs, if above 0",
    "per_device_train_batch_size": "questions a step, in each process",
    "learning_rate": "peak learning rate",
    "seed": "of everything that is random",
}


def main(arguments: list[str]) -> None:
    """Recipe and settings → a finished run, and what to type next."""
    words = {"recipe": "name of a packaged recipe, or a YAML file"}
    parser = CommandParser("flamingo-med train", __doc__, *KINDS, words=words, often=OFTEN, shorter=SHORTER)
    words, typed = parser.parse(arguments)
    settings = override(read_recipe(words["recipe"]), typed, *KINDS)
    if settings.pop("print_config", False):
        build_arguments(settings | {"use_cpu": True}, *KINDS)  # tells mistakes, but of GPUs
        print(as_yaml(settings), end="")
        return
    tokens = settings.pop("estimate_memory", None)
    if tokens is not None:
        settings["use_cpu"] = True  # of whatever GPUs the recipe is for, none is needed
        _, model_args, training_args = build_arguments(settings, *KINDS)
        print(memory_table(model_args, training_args, tokens))
        return
    folder = train_by_settings(settings)
    if PartialState().is_main_process:
        print((folder / "summary.md").read_text(encoding="utf-8"))
        print(f"model: {folder}\nscore it: {next_command(folder)}")


def memory_table(args: ModelArguments, training_args: FlamingoMedTrainingArguments, tokens: int) -> str:
    """What `--estimate_memory` prints; a head, which is small, is left out."""
    if not isinstance(tokens, int) or tokens < 2:
        raise InputError(f"--estimate_memory needs the tokens of a question with its answer, such as 64, not {tokens}")
    with loading_errors():
        vision, text = part_config(args.vision, "vision_config"), part_config(args.text, "text_config")
    image_size = args.image_size or getattr(vision, "image_size", None)
    if image_size is None:
        raise InputError(f"a {vision.model_type} has no image size of its own; add --image_size 224")
    estimate = estimate_memory(
        vision,
        text,
        training_args,
        tokens=tokens,
        vocab_size=args.tokenizer["vocab_size"] if isinstance(args.tokenizer, dict) else text.vocab_size,
        image_size=image_size,
        **{name: value for name, value in args.model.items() if name != "problem_type"},
    )
    return format_memory(estimate, training_args, tokens)


if __name__ == "__main__":
    run_command("train")
