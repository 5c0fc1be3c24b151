"""The forms that reasons and remarks may have: plain words that a user can act on."""

import re
from pathlib import Path

CRASH = re.compile(r"crashed the worker process")
HANG = re.compile(r"took longer than [\d.]+ s")
FORBIDDEN = re.compile(
    r"\b\w+(Error|Exception|Warning)\b|NoneType|Traceback|unexpected|<[\w.]+ (object|at)|0x[0-9a-f]{6,}|\bNone\b|"
    r"\bobject (is|has|of|does)\b|\b(attribute|argument|subscript|iterable|ndarray|dtype|numpy|tuple|index out|memoryview)\b|"
    r"plugin|unpack requires|invalid literal|could not convert|cannot reshape|\bbuffer\b|mammovae\.|\.py\b"
)
REASONS: list[str] = [".*"]
REMARKS: list[str] = [".*"]


def fault_of_reason(sentence: str, path: Path) -> str | None:
    """Return what is wrong with the reason of a refusal, or None."""
    plain = sentence.replace(str(path), "PATH")
    if (fault := _fault_of_form(plain)) is not None:
        return fault
    return None if any(re.fullmatch(form, plain) for form in REASONS) else f"a reason of no allowed form: {plain}"


def fault_of_remarks(sentences: str) -> str | None:
    """Return what is wrong with the remarks on a file that was read, or None."""
    if (fault := _fault_of_form(sentences)) is not None:
        return fault
    wrong = [one for one in sentences.split("; ") if one and not any(re.fullmatch(form, one) for form in REMARKS)]
    return f"a remark of no allowed form: {wrong[0]}" if wrong else None


def _fault_of_form(sentence: str) -> str | None:
    if not sentence.isprintable():
        return f"characters that cannot be printed: {sentence!r}"
    if len(sentence) > 700:
        return f"{len(sentence)} characters: {sentence[:200]}"
    found = FORBIDDEN.search(sentence)
    return f"a programmer's words ({found[0]}): {sentence}" if found else None
