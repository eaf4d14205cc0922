"""Accuracy and BLEU of ImageCLEF VQA-Med, to the last bit those of the official evaluator of 2021.

    evaluate.load("processing/scoring/imageclef.py").compute(predictions=["An x-ray."], references=["x ray"])

The evaluator takes tokenizer, stop words, stemmer and BLEU from NLTK, whose BLEU changes with the version: 3.2.2,
which that edition was scored with, backs off to shorter n-grams where long ones are missing, 3.4 and later do not.
(2020's evaluator is the same code, but its list of requirements names 3.4.) Only the stemmer is NLTK's here: it
downloads nothing and has not changed. In a text without ASCII punctuation NLTK's tokenizer splits at white space and
in six words, `CLITICS`; that of later versions splits at typographic quotes too. Of its stop words those with an
apostrophe can never occur; the others, `STOP_WORDS`, are the same in its lists of 153 and of 179 words.

This file stands alone: `evaluate.load` copies it away from the package (hence one import per line, none of ours).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import datasets
import evaluate
from nltk.stem.snowball import SnowballStemmer

VERSION = "v1"
METRICS = {
    "imageclef_accuracy": f"imageclef_accuracy|{VERSION}|norm:vqa-v2|alternatives:any",
    "imageclef_bleu": f"imageclef_bleu|{VERSION}|ngram:4|backoff:3.2.2|stop:nltk-en|stem:snowball",
}

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())}
ARTICLES = ("a", "an", "the")
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Each is known by any one of its apostrophes missing. (VQA's table has "somebody'd" the wrong way round.)
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in CONTRACTED.split() for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}

WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLITICS = re.compile(r"\b(can)(not)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(lem)(me)\b|\b(wan)(na)(?= |\Z)")
NLTK_STOP_WORDS = """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it
    its itself they them their theirs themselves what which who whom this that these those am is are was were be been
    being have has had having do does did doing a an the and but if or because as until while of at by for with about
    against between into through during before after above below to from up down in out on off over under again further
    then once here there when where why how all any both each few more most other some such no nor not only own same so
    than too very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma
    mightn mustn needn shan shouldn wasn weren won wouldn
"""
STOP_WORDS = frozenset(NLTK_STOP_WORDS.split())
STEMMER = SnowballStemmer("english")


def score(prediction: str, references: str | Sequence[str]) -> dict[str, float]:
    """Accuracy and BLEU of one answer, each the best over the references.

    Args:
        prediction: the answer of the model.
        references: the accepted answer, or all accepted answers; "#" (2019, 2020) and "|" (2021) within one separate
            alternatives too. Parentheses are punctuation, as the evaluators have it; that those of the test set of
            2019 mark optional parts is known to the loader of that data set.

    >>> score("an X-ray", ["mri", "x ray#radiograph"])
    {'imageclef_accuracy': 1.0, 'imageclef_bleu': 0.0}
    """
    references = [references] if isinstance(references, str) else references
    alternatives = [text for reference in references for text in re.split("[#|]", reference)]
    return {
        "imageclef_accuracy": float(any(normalize(prediction) == normalize(text) for text in alternatives)),
        "imageclef_bleu": max((bleu(words(prediction), words(text)) for text in alternatives), default=0.0),
    }


def signature(metric: str) -> str:
    """What is printed beside every number of a metric."""
    return METRICS[metric]


def normalize(text: str) -> str:
    """An answer as VQA v2 compares it.

    Punctuation goes where a blank is beside that mark anywhere in the answer, or where a comma stands between digits;
    else a blank takes its place. (The evaluator hands `re.sub` a flag as its count: only 32 periods go.)

    >>> normalize("The two 1,000 ml-bags")
    '2 1000 mlbags'
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,\d", text)
    replaced = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        replaced = replaced.replace(mark, "" if beside_blank or thousands else " ")
    replaced = re.sub(r"\.(?!\d)", "", replaced, count=32)
    numbered = (NUMBERS.get(word, word) for word in replaced.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def words(text: str) -> list[str]:
    """Stems of an answer's words, without punctuation and stop words."""
    plain = text.lower().translate(WITHOUT_PUNCTUATION)
    split = CLITICS.sub(lambda match: " {} {} ".format(*filter(None, match.groups())), plain).split()
    return [_stem(word) for word in split if word not in STOP_WORDS]


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return STEMMER.stem(word)


def bleu(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Sentence BLEU of NLTK 3.2.2 with `method0`: the first n-gram order without a match ends the product.

    Two empty answers are equal. The precisions that are left keep their weights of 1/4: one common word of one gives
    1, and one of two not 1/2 but (1/2) ** 1/4.
    """
    if not prediction and not reference:
        return 1.0
    logs = []
    for n in (1, 2, 3, 4):
        of_prediction, of_reference = _ngrams(prediction, n), _ngrams(reference, n)
        matches = sum((of_prediction & of_reference).values())
        if not matches:
            break
        logs.append(0.25 * math.log(matches / of_prediction.total()))
    if not logs:
        return 0.0
    brevity = min(1.0, math.exp(1 - len(reference) / len(prediction)))
    return brevity * math.exp(math.fsum(logs))


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


class ImageClef(evaluate.Metric):
    """`compute(predictions, references)` → {"accuracy", "bleu"}: means over the rows, 0–1, to four decimals.

    `references` is a list of strings, or a list of lists of accepted answers; not a mixture of both.
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Accuracy and BLEU of the official evaluators of ImageCLEF VQA-Med. "
            + " ".join(METRICS.values()),
            citation="Ben Abacha et al., Overview of the VQA-Med task at ImageCLEF 2021, CLEF 2021 Working Notes.",
            inputs_description="predictions: strings; references: strings, or lists of accepted strings.",
            features=[
                datasets.Features({"predictions": value, "references": value}),
                datasets.Features({"predictions": value, "references": datasets.List(value)}),
            ],
        )

    def _compute(self, predictions: list[str], references: list[str] | list[list[str]]) -> dict[str, float]:
        rows = [score(*pair) for pair in zip(predictions, references, strict=True)]
        return {
            name.removeprefix("imageclef_"): round(sum(row[name] for row in rows) / len(rows), 4) for name in METRICS
        }
