"""Every module has a name of its own, tests in the folder that mirrors its package, and says what it is for."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from flamingo_med.cli.main import COMMANDS
from flamingo_med.explanation.methods import METHODS
from tests import ROOT

PACKAGES = ("flamingo_med", "modeling_flamingo_med", "processing")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILES = sorted(
    path.relative_to(ROOT)
    for folder in (*PACKAGES, "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path.read_text(encoding="utf-8")
) + [path.relative_to(ROOT) for path in ROOT.glob("*.py")]

# Module without a test file of its own → the one in which it is tested. A command is tested with what it is for.
TESTED_BY = {
    "flamingo_med/demo/login.py": "flamingo_med/demo/test_demo_browser.py",
    "flamingo_med/inference/readable_rows.py": "processing/test_row_checks.py",
    "flamingo_med/reporting/run_files.py": "flamingo_med/reporting/test_model_card.py",
    "flamingo_med/training/identity.py": "flamingo_med/training/test_checkpoints.py",
    "processing/images_flamingo_med.py": "processing/test_images.py",
    "flamingo_med/cli/arguments.py": "flamingo_med/cli/test_evaluate.py",
    "flamingo_med/cli/calibrate.py": "flamingo_med/evaluation/test_calibration.py",
    "flamingo_med/cli/card.py": "flamingo_med/reporting/test_model_card.py",
    "flamingo_med/cli/compare.py": "flamingo_med/evaluation/test_comparison.py",
    "flamingo_med/cli/compare_maps.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/cli/consistency.py": "flamingo_med/evaluation/test_consistency.py",
    "flamingo_med/cli/convert.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/cli/demo.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/cli/explain.py": "flamingo_med/explanation/test_measurement.py",
    "flamingo_med/cli/explain_classifier.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/cli/overlap.py": "processing/datasets/test_split_overlap.py",
    "flamingo_med/cli/parser.py": "flamingo_med/cli/test_main.py",
    "flamingo_med/cli/publish.py": "flamingo_med/common/test_hub.py",
    "flamingo_med/cli/shards.py": "processing/datasets/test_parquet_shards.py",
    "flamingo_med/cli/tokenizer.py": "processing/test_tokenization.py",
    "flamingo_med/common/auto_classes.py": "flamingo_med/cli/test_main.py",
    "flamingo_med/conversion/flamingo_mini.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/flamingo_pytorch.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/idefics.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/open_flamingo.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/peer.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/prompts.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/source.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/vocabulary.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/conversion/weights.py": "flamingo_med/conversion/test_convert.py",
    "flamingo_med/demo/asking.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/demo/demo_page.py": "flamingo_med/demo/test_demo_browser.py",
    "flamingo_med/demo/examples.py": "flamingo_med/demo/test_demo_browser.py",
    "flamingo_med/demo/fragments.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/demo/guard.py": "flamingo_med/demo/test_demo_browser.py",
    "flamingo_med/demo/heat.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/demo/record.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/demo/server.py": "flamingo_med/demo/test_demo_browser.py",
    "flamingo_med/demo/session.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/demo/upload.py": "flamingo_med/demo/test_demo.py",
    "flamingo_med/evaluation/calibration_error.py": "flamingo_med/evaluation/test_calibration.py",
    "flamingo_med/evaluation/counterfactuals.py": "flamingo_med/evaluation/test_consistency.py",
    "flamingo_med/evaluation/predictions.py": "flamingo_med/evaluation/test_comparison.py",
    "flamingo_med/explanation/attention.py": "flamingo_med/explanation/test_explanation.py",
    "flamingo_med/explanation/attribution.py": "flamingo_med/explanation/test_explanation.py",
    "flamingo_med/explanation/case.py": "flamingo_med/explanation/test_explanation.py",
    "flamingo_med/explanation/classifier.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/explanation/classifier_page.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/explanation/explanation_card.py": "flamingo_med/explanation/test_measurement.py",
    "flamingo_med/explanation/map_comparison.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/explanation/methods.py": "flamingo_med/explanation/test_explanation.py",
    "flamingo_med/explanation/questions.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/explanation/target.py": "flamingo_med/explanation/test_explanation.py",
    "flamingo_med/explanation/templates.py": "flamingo_med/explanation/test_classifier_check.py",
    "flamingo_med/inference/split_arguments.py": "flamingo_med/common/test_settings.py",
    "flamingo_med/inference/backends.py": "flamingo_med/inference/test_answering.py",
    "flamingo_med/inference/candidates.py": "flamingo_med/evaluation/test_conditions.py",
    "flamingo_med/inference/partial_answers.py": "flamingo_med/evaluation/test_conditions.py",
    "flamingo_med/metrics/exact_match.py": "flamingo_med/evaluation/test_scorers.py",
    "flamingo_med/reporting/calibration_plots.py": "flamingo_med/evaluation/test_calibration.py",
    "flamingo_med/reporting/evaluate_split.py": "flamingo_med/cli/test_evaluate.py",
    "flamingo_med/reporting/figures.py": "flamingo_med/reporting/test_evaluation_page.py",
    "flamingo_med/reporting/run_report.py": "flamingo_med/training/test_trainer.py",
    "flamingo_med/reporting/score_plot.py": "flamingo_med/reporting/test_evaluation_page.py",
    "flamingo_med/training/hub_mixin.py": "flamingo_med/common/test_hub.py",
    "flamingo_med/training/report_callback.py": "flamingo_med/training/test_trainer.py",
    "flamingo_med/training/run.py": "flamingo_med/cli/test_train.py",
    "flamingo_med/training/sampler.py": "flamingo_med/training/test_trainer.py",
    "flamingo_med/training/starting_point.py": "flamingo_med/training/test_trainer.py",
    "modeling_flamingo_med/configuration_flamingo_med.py": "modeling_flamingo_med/test_modeling_flamingo_med.py",
    "modeling_flamingo_med/cross_attention_flamingo_med.py": "modeling_flamingo_med/test_images_in_text.py",
    "modeling_flamingo_med/embeddings_flamingo_med.py": "modeling_flamingo_med/test_trainable_parts.py",
    "modeling_flamingo_med/layers_flamingo_med.py": "modeling_flamingo_med/test_modeling_flamingo_med.py",
    "modeling_flamingo_med/perceiver_flamingo_med.py": "modeling_flamingo_med/test_modeling_flamingo_med.py",
    "processing/collator.py": "processing/test_processing_flamingo_med.py",
    "processing/datasets/about.py": "flamingo_med/reporting/test_model_card.py",
    "processing/datasets/arguments.py": "flamingo_med/common/test_settings.py",
    "processing/datasets/phantom_drawing.py": "processing/datasets/test_phantom.py",
    "processing/datasets/phantom_patients.py": "processing/datasets/test_phantom.py",
    "processing/datasets/phantom_questions.py": "flamingo_med/evaluation/test_consistency.py",
    "processing/datasets/phantom_sheet.py": "processing/datasets/test_phantom.py",
    "processing/datasets/rows.py": "processing/datasets/test_datasets.py",
    "processing/datasets/source_files.py": "processing/datasets/test_datasets.py",
    "processing/errors.py": "flamingo_med/common/test_settings.py",
    "processing/files.py": "flamingo_med/evaluation/test_tables.py",
}


@cache
def imports(file: Path) -> set[str]:
    """Files of the packages that a file imports, wherever in it, and those of the commands that it names."""
    text = (ROOT / file).read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*file.parent.parts, *filter(None, [node.module])]) if node.level else node.module
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    files = {name.replace(".", "/") + suffix for name in names for suffix in (".py", "/__init__.py")}
    if file.parts[0] == "tests":
        files |= {f"flamingo_med/cli/{name.replace('-', '_')}.py" for name in COMMANDS if f'"{name}"' in text}
    if file.as_posix() == "flamingo_med/explanation/methods.py":  # which imports a method when it is asked for
        files |= {f"flamingo_med/explanation/{name}.py" for name in METHODS.values()}
    return files & {path.as_posix() for path in MODULES}


def test_no_two_modules_have_the_same_name():
    """Those of the commands aside, which bear the names of what one types."""
    names = Counter(path.name for path in MODULES if path.parent.name != "cli" and path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("module", [path.as_posix() for path in MODULES if path.name != "__init__.py"])
def test_every_module_is_tested_where_one_looks_for_it(module):
    path = ROOT / module
    mirrored = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
    if module not in TESTED_BY:
        assert mirrored.is_file()
        return
    assert not mirrored.is_file()
    reached = imports(Path("tests", TESTED_BY[module]))
    for _ in range(2):  # a command, what it calls, and what that imports
        reached = reached.union(*(imports(Path(file)) for file in reached))
    assert module in reached


def test_what_is_listed_is_there():
    assert [module for module in TESTED_BY if not (ROOT / module).is_file()] == []


@pytest.mark.parametrize("file", [path.as_posix() for path in FILES])
def test_every_file_says_in_its_first_line_what_it_is(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and tree.body[0].lineno == 1
