"""The questions of `phantom`: what a scene can answer, in which words, and a choice that balances the answers."""

import heapq
from dataclasses import dataclass

from processing.datasets.phantom_drawing import Finding, Scene
from processing.datasets.phantom_patients import SIDES

YES_NO = ("yes", "no")
NOUNS = {
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "nodule": "lung nodule",
    "cardiomegaly": "cardiomegaly",
    "pacemaker": "cardiac pacemaker",
}
OPEN_ANSWERS = {
    "side": SIDES,
    "place": ("upper zone", "middle zone", "lower zone"),
    "count": ("0", "1", "2", "3"),
    "size": ("small", "large"),
    "view": ("frontal", "lateral", "axial"),
    "modality": ("x-ray", "ct"),
}
OPEN_WORDINGS = {
    "side": ("On which side is the {noun}?", "Which side is affected by the {noun}?", "Is the {noun} left or right?"),
    "place": (
        "In which lung zone is the {noun}?",
        "Where is the {noun}: upper, middle or lower zone?",
        "Which zone of the lung contains the {noun}?",
    ),
    "count": ("How many lung nodules are there?", "What is the number of lung nodules?", "Count the lung nodules."),
    "size": ("Is the {noun} small or large?", "What is the size of the {noun}?", "How large is the {noun}?"),
    "view": (
        "What is the view of this image?",
        "Which projection or plane is shown?",
        "How is the chest viewed?",
    ),
    "modality": (
        "What is the imaging modality?",
        "Which modality was used to acquire this image?",
        "How was this image taken?",
    ),
}
CLOSED_WORDINGS = {
    "presence": ("Is there a {noun}?", "Does this image show a {noun}?", "Can a {noun} be seen?"),
    "side": ("Is the {noun} on the {asked} side?", "Is the {noun} {asked}-sided?", "Is the {noun} on the {asked}?"),
    "view": (
        "Is this {article} {asked} view?",
        "Does this image show {article} {asked} view?",
        "Is the view {asked}?",
    ),
    "modality": ("Is this {article} {asked} image?", "Was this image taken with {asked}?", "Is the modality {asked}?"),
}
HEART_WORDINGS = ("Is the heart enlarged?", "Is there cardiomegaly?", "Is the cardiac silhouette enlarged?")


@dataclass(frozen=True)
class Question:
    question_type: str
    answer: str
    finding: str = ""  # label of the finding the question is about
    asked: str = ""  # what a closed question about side, view or modality suggests

    @property
    def closed(self) -> bool:
        return self.answer in YES_NO

    @property
    def kind(self) -> tuple[str, str, str]:
        """Questions of one kind compete for balance: they differ in wording and answer only."""
        return self.question_type, self.finding, self.asked

    @property
    def answers(self) -> tuple[str, ...]:
        return YES_NO if self.closed else OPEN_ANSWERS[self.question_type]

    def text(self, wording: int) -> str:
        wordings = CLOSED_WORDINGS if self.closed else OPEN_WORDINGS
        choices = HEART_WORDINGS if self.finding == "cardiomegaly" else wordings[self.question_type]
        article = "an" if self.asked in ("axial", "x-ray") else "a"
        asked = {"ct": "CT", "x-ray": "X-ray"}.get(self.asked, self.asked)
        return choices[wording % len(choices)].format(noun=NOUNS.get(self.finding), asked=asked, article=article)


def ask(scene: Scene, index: int) -> list[Question]:
    """Every question the scene can answer, at most one of each kind."""
    modality = "ct" if scene.view == "axial" else "x-ray"
    questions = [Question("view", scene.view), Question("modality", modality)]
    questions += [Question("view", yes_no(scene.view == asked), asked=asked) for asked in OPEN_ANSWERS["view"]]
    questions += [Question("modality", yes_no(modality == asked), asked=asked) for asked in OPEN_ANSWERS["modality"]]
    visible = {"frontal": tuple(NOUNS), "lateral": (), "axial": ("effusion", "nodule")}[scene.view]
    for label in visible:
        found = [finding for finding in scene.findings if finding.label == label]
        questions.append(Question("presence", yes_no(bool(found)), label))
        if label == "nodule":
            questions.append(Question("count", str(len(found)), label))
        if len(found) == 1:
            questions += describe(found[0], SIDES[index % 2])
    return questions


def describe(finding: Finding, asked_side: str) -> list[Question]:
    questions = []
    if finding.side:
        questions.append(Question("side", finding.side, finding.label))
        questions.append(Question("side", yes_no(finding.side == asked_side), finding.label, asked_side))
    if finding.zone:
        questions.append(Question("place", f"{finding.zone} zone", finding.label))
    if finding.size:
        questions.append(Question("size", finding.size, finding.label))
    return questions


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def balance(candidates: list[list[Question]], limit: int) -> list[list[tuple[Question, str]]]:
    """Choose at most `limit` questions of each image, and their wording, so that only the image tells the answer.

    Questions are taken in sets, one for each possible answer of a kind, and a set shares one wording. The kinds take
    turns, and each turn serves the images that have the fewest questions so far.
    """
    waiting = {}  # kind -> answer -> heap of (questions so far, image, question)
    for image, questions in enumerate(candidates):
        for number, question in enumerate(questions):
            heaps = waiting.setdefault(question.kind, {answer: [] for answer in question.answers})
            heaps[question.answer].append((0, image, number))
    chosen = [[] for _ in candidates]

    def next_image(heap: list) -> bool:
        """Bring the least asked image to the top; False if no image has room for a question."""
        while heap and heap[0][0] != len(chosen[heap[0][1]]):
            _, image, number = heapq.heappop(heap)
            if len(chosen[image]) < limit:
                heapq.heappush(heap, (len(chosen[image]), image, number))
        return bool(heap)

    turn = 0
    kinds = sorted(waiting)
    while kinds:
        for kind in list(kinds):
            heaps = waiting[kind].values()
            if not all(next_image(heap) for heap in heaps):
                kinds.remove(kind)
                continue
            for heap in heaps:
                _, image, number = heapq.heappop(heap)
                question = candidates[image][number]
                chosen[image].append((question, question.text(turn)))
        turn += 1
    return chosen
