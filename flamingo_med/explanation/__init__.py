"""Which pixels made this answer, and is the explanation faithful; and what a classifier's findings look like to it."""

from flamingo_med.explanation.case import Case, prepare
from flamingo_med.explanation.classifier import Classifier, HeadClassifier, ImageClassifier, load_classifier
from flamingo_med.explanation.classifier_check import ClassifierExplanation, explain_classifier
from flamingo_med.explanation.explanation import Explanation
from flamingo_med.explanation.geometry import Geometry, Grid
from flamingo_med.explanation.methods import METHODS, explain, explain_case
from flamingo_med.explanation.questions import read_questions

__all__ = [
    "METHODS",
    "Case",
    "Classifier",
    "ClassifierExplanation",
    "Explanation",
    "Geometry",
    "Grid",
    "HeadClassifier",
    "ImageClassifier",
    "explain",
    "explain_case",
    "explain_classifier",
    "load_classifier",
    "prepare",
    "read_questions",
]
