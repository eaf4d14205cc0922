"""Which pixels made this answer, and is the explanation faithful: `explain`, and the measures of its maps."""

from modeling_flamingo_med.explanation.case import Case, prepare
from modeling_flamingo_med.explanation.explanation import Explanation
from modeling_flamingo_med.explanation.geometry import Geometry, Grid
from modeling_flamingo_med.explanation.methods import METHODS, explain, explain_case

__all__ = ["METHODS", "Case", "Explanation", "Geometry", "Grid", "explain", "explain_case", "prepare"]
