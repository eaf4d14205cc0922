"""flamingo-med recipes: the list of what train takes by name."""

from flamingo_med.common.settings import packaged_recipes


def test_every_packaged_recipe_has_a_line_that_says_what_it_is(command):
    lines = [line.split(maxsplit=1) for line in command("recipes").splitlines()]
    assert [name for name, _ in lines] == list(packaged_recipes())
    assert all(sentence.endswith(".") and len(sentence.split()) > 2 for _, sentence in lines)
