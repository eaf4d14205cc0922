"""Images and questions to begin with, drawn at the start: nobody's images, from phantom's test split."""

from PIL import Image

from processing.datasets.phantom_drawing import draw
from processing.datasets.phantom_patients import sample_scene

SIZE = 128  # as phantom draws them by default
SCENES = {"Radiograph": 5, "Lateral radiograph": 1, "CT slice": 8}  # title → number in the test split
QUESTIONS = (
    "Is there a pleural effusion?",
    "On which side is the pleural effusion?",
    "Is there a pneumothorax?",
    "Is the heart enlarged?",
    "How many lung nodules are there?",
    "What is the imaging modality?",
)


def draw_examples() -> dict[str, Image.Image]:
    """Title → image."""
    return {title: _draw(number) for title, number in SCENES.items()}


def _draw(number: int) -> Image.Image:
    pixels, _ = draw(sample_scene(0, "test", number), SIZE)
    return Image.fromarray(pixels)
