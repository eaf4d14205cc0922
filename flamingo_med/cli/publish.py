"""Put a finished model, a metric or the phantom data set on the Hub.

The token is that of `hf auth login` or HF_TOKEN. What is published is loaded by from_pretrained
(with trust_remote_code=True where this package is not installed), evaluate.load and load_dataset.

  flamingo-med publish model runs/phantom user/flamingo-med-phantom
  flamingo-med publish metric exact_match user/exact_match
  flamingo-med publish dataset phantom user/phantom --data.seed 1
"""

import html
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import evaluate
from datasets import DatasetDict, Features, Image, List
from huggingface_hub import DatasetCard, SpaceCard, upload_folder

from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.hub import hub_errors, make_repository, upload_model
from flamingo_med.common.settings import build_arguments, override
from processing.datasets import FEATURES, SPLITS, load_split, phantom
from processing.errors import InputError, check_keys

METRICS = Path(__file__).parents[1] / "metrics"

METRIC_CARD = """---
title: {title}
sdk: static
license: apache-2.0
tags: [evaluate, metric]
---

# {title}

{description}

```python
import evaluate

metric = evaluate.load("{repo_id}")
metric.compute(predictions=[…], references=[…])
```

{inputs} Part of flamingo-med: medical visual question answering, research software, not for clinical use.
"""

METRIC_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<p>{description}</p>
<pre>evaluate.load("{repo_id}")</pre>
</html>
"""

PHANTOM_CARD = """---
license: apache-2.0
language: en
pretty_name: phantom
task_categories: [visual-question-answering]
tags: [medical, radiology, synthetic]
---

# phantom

Drawn, schematic chest radiographs and CT slices with known findings, their boxes and balanced questions: for each
wording of a question every answer is equally frequent, so a model that does not look at the image scores near chance.
No image shows a patient. For experiments with visual question answering; what is learned here says nothing about real
images, and nothing of it is for clinical use.

Drawn by flamingo-med, version {version} of the generator, options: {options}. The same options draw the same pixels on
every machine; splits share no image. `boxes` are x0 y0 x1 y1 in pixels.

```python
from datasets import load_dataset

rows = load_dataset("{repo_id}", split="test")
```
"""


@dataclass
class PublishArguments:
    """How it is published."""

    private: bool | None = field(
        default=None, metadata={"help": "for its owner only; as the owner's default if unset"}
    )
    revision: str | None = field(default=None, metadata={"help": "branch, made if it is not there; main if unset"})
    data: dict = field(default_factory=dict, metadata={"help": "options of the data set: --data.seed 1"})


def publish_model(name: str, repo_id: str, args: PublishArguments) -> str:
    """The model in a run's folder, with its processor, code, card, recipe and run.json; returns where it is."""
    if not Path(name, "config.json").is_file():
        raise InputError(f"no model at {name}; give the output_dir of a finished run")
    repo_id = make_repository(repo_id, private=args.private, revision=args.revision)
    return upload_model(name, repo_id, "Upload model", args.revision).commit_url


def publish_metric(name: str, repo_id: str, args: PublishArguments) -> str:
    """A scorer's file as a Space, under the name that `evaluate.load` looks for; returns where it is."""
    file = METRICS / f"{name}.py"
    check_keys([name], [path.stem for path in METRICS.glob("*.py") if is_metric(path)], "metric")
    metric = evaluate.load(str(file))
    repo_id = make_repository(repo_id, "space", args.private, args.revision, space_sdk="static")
    facts = {"title": name, "repo_id": repo_id, "description": metric.description, "inputs": metric.inputs_description}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, Path(folder, repo_id.split("/")[1] + ".py"))
        page = METRIC_PAGE.format(**{fact: html.escape(text) for fact, text in facts.items()})
        Path(folder, "index.html").write_text(page, encoding="utf-8")
        SpaceCard(METRIC_CARD.format(**facts)).save(Path(folder, "README.md"))
        return upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Upload metric",
            revision=args.revision,
        ).commit_url


def is_metric(file: Path) -> bool:
    """Whether a file of the metrics says of itself that it is a metric of `evaluate`."""
    return "(evaluate.Metric)" in file.read_text(encoding="utf-8")


def publish_dataset(name: str, repo_id: str, args: PublishArguments) -> str:
    """All splits of phantom as Parquet with the images inside; returns where they are.

    Raises:
        InputError: another data set, whose images are not ours to give away.
    """
    if name != "phantom":
        raise InputError(f"{name} cannot be published from here: only phantom is ours to give away")
    splits = DatasetDict({split: load_split(name, split, **args.data) for split in SPLITS})
    repo_id = make_repository(repo_id, "dataset", args.private, args.revision)
    options = ", ".join(f"{option} {value}" for option, value in args.data.items()) or "the defaults"
    card = DatasetCard(PHANTOM_CARD.format(version=phantom.VERSION, options=options, repo_id=repo_id))
    card.push_to_hub(repo_id, repo_type="dataset", revision=args.revision)
    shown = Features({**FEATURES, "image": Image(), "more_images": List(Image())})  # as pictures, not as bytes
    return splits.cast(shown).push_to_hub(repo_id, revision=args.revision).commit_url


KINDS = {"model": publish_model, "metric": publish_metric, "dataset": publish_dataset}


WORDS = {
    "kind": "model, metric or dataset",
    "name": "folder of the run, name of the metric, or phantom",
    "repository": "USER/NAME on the Hub",
}


def main(arguments: list[str]) -> None:
    """Kind, name and repository → where it is published."""
    parser = CommandParser(
        "flamingo-med publish", __doc__, PublishArguments, words=WORDS, often=("private", "revision", "data")
    )
    words, typed = parser.parse(arguments)
    kind, name, repo_id = words.values()
    check_keys([kind], KINDS, "kind of thing to publish")
    (args,) = build_arguments(override({}, typed, PublishArguments), PublishArguments)
    if args.data and kind != "dataset":
        raise InputError(f"--data is for a data set, not for a {kind}")
    with hub_errors(f"{name} was not published as {repo_id}"):
        print(f"published: {KINDS[kind](name, repo_id, args)}")
