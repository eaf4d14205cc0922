"""Templates of the questions about a classifier's findings: `questions.yaml`, or a user's copy of it, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from flamingo_med.common.settings import read_mapping
from processing.errors import InputError, check_keys, check_types

DEFAULT = Path(__file__).with_name("questions.yaml")
PRESENCE = "presence"


@dataclass(frozen=True)
class Template:
    """One kind of question.

    Attributes:
        ask: its wordings, {noun} for the finding.
        answers: candidate answers; none where the model writes its own.
        agrees: those that say that the finding is there; none where it is taken for granted.
    """

    ask: list[str]
    answers: list[str]
    agrees: list[str]


@dataclass(frozen=True)
class Questions:
    """Kinds of question, and what differs for some findings; see `questions.yaml`."""

    path: str
    kinds: dict[str, dict]
    findings: list[dict]

    def finding(self, class_name: str) -> dict | None:
        """What differs for that class; None where it is not listed, and asked about by its own name."""
        return next((f for f in self.findings if _plain(class_name) in map(_plain, f["classes"])), None)

    def about(self, class_name: str) -> dict[str, Template]:
        """kind → its question about that class, {noun} filled in; only kinds that make sense, presence first."""
        finding = self.finding(class_name) or {}
        noun = finding.get("noun", _plain(class_name))
        templates = {}
        for kind in sorted(self.kinds, key=lambda kind: kind != PRESENCE):
            if kind in finding and finding[kind] is None:
                continue
            where = f"{kind} of {class_name}"
            template = _template({**self.kinds[kind], **finding.get(kind, {})}, where, self.path)
            wordings = [wording.replace("{noun}", noun) for wording in template.ask]
            templates[kind] = Template(wordings, template.answers, template.agrees)
        return templates


def read_questions(path: str | Path = DEFAULT) -> Questions:
    """The templates of a file laid out as `questions.yaml`.

    Raises:
        InputError: no such file, or something in it that cannot be asked.
    """
    path = str(path)
    if not Path(path).is_file():
        raise InputError(f"no questions at {path}; copy {DEFAULT} and change the copy")
    content = read_mapping(path)
    check_keys(content, ["questions", "findings"], f"key of {path}")
    kinds, findings = content.get("questions"), content.get("findings") or []
    if not isinstance(kinds, dict) or PRESENCE not in kinds:
        raise InputError(f"{path} asks for no presence, which the classifier is checked by; see {DEFAULT}")
    if not isinstance(findings, list):
        raise InputError(f"findings of {path} must be a list; see {DEFAULT}")
    for kind, settings in kinds.items():
        _template(settings, kind, path)
    for finding in findings:
        if not isinstance(finding, dict) or not _texts(finding.get("classes")):
            raise InputError(f"a finding of {path} names no classes; see {DEFAULT}")
        check_keys(finding, ["classes", "noun", *kinds], f"key of the finding {finding['classes'][0]} in {path}")
        if not isinstance(finding.get("noun", ""), str) or finding.get(PRESENCE, {}) is None:
            raise InputError(f"the finding {finding['classes'][0]} of {path} needs a noun and a presence")
        for kind in finding.keys() & kinds.keys():
            if not isinstance(finding[kind], dict | None):
                raise InputError(f"{kind} of {finding['classes'][0]} in {path} must be a mapping or null")
    questions = Questions(path, kinds, findings)
    for finding in findings:
        questions.about(finding["classes"][0])
    return questions


def _template(settings: Any, where: str, path: str) -> Template:
    """A kind of question from its settings, which must make sense."""
    if not isinstance(settings, Mapping):
        raise InputError(f"{where} in {path} must be a mapping with ask, and maybe answers and agrees")
    hints = get_type_hints(Template)
    check_keys(settings, hints, f"key of {where} in {path}")
    settings = check_types({"ask": [], "answers": [], "agrees": [], **settings}, hints)
    for name, values in settings.items():
        if values and not _texts(values):
            raise InputError(f"{name} of {where} in {path} must be texts; put numbers in quotes")
    template = Template(**settings)
    if not template.ask:
        raise InputError(f"{where} in {path} asks nothing; give it at least one wording: ask: [...]")
    if len(set(template.answers)) == 1 or set(template.agrees) - set(template.answers):
        raise InputError(f"{where} in {path} needs two answers or none, and its agrees among them")
    if set(template.answers) == set(template.agrees) != set():
        raise InputError(f"{where} in {path}: every answer agrees; leave out of agrees those that say it is not there")
    if where.startswith(PRESENCE) and not template.agrees:
        raise InputError(f"{where} in {path} needs answers and agrees, which the classifier is checked by")
    return template


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) and v.strip() for v in values)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
