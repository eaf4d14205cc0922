"""List the packaged recipes; flamingo-med train takes one by name, and --print_config shows it."""

from flamingo_med.cli.parser import CommandParser
from flamingo_med.common.settings import packaged_recipes


def main(arguments: list[str]) -> None:
    """A line for each recipe: its name, and the first sentence of its comment."""
    CommandParser("flamingo-med recipes", __doc__).parse(arguments)
    recipes = packaged_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f"{name:<{width}}  {first_sentence(path.read_text(encoding='utf-8'))}")


def first_sentence(text: str) -> str:
    """What a recipe's leading comment says first.

    >>> first_sentence("# VQA-RAD on two cores,\\n# with a head. More.\\ndataset: vqa_rad")
    'VQA-RAD on two cores, with a head.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".") + "."
