"""Figures of detection as plain sentences, and what no such study can say."""

from mammovae.report.formatting import UNAFFECTED
from mammovae.statistics.bootstrap import FEWEST_PATIENTS, Estimate, signed
from mammovae.statistics.detection_metrics import DetectionMetrics

LIMITS = (
    "It is research software. A score is a distance from the healthy images it was trained on, not the probability "
    "of a disease, and no diagnosis may rest on it.",
    "A high score can come from anything unlike the training images: exposure, positioning, an implant, a mark on the "
    "image or another vendor’s processing, as well as from a lesion.",
    "An anomaly map shows where an image departs from what the network makes of it. It is no outline of a lesion.",
    "The figures hold for images like those tested here. Another population, vendor or selection will give others.",
    "Several scores and groups are listed without correction for their number: a table’s best row flatters itself.",
)

OWN_IMAGES = (
    "mammovae prepare dicom MY-IMAGES --out DATA --size 512",
    "mammovae train DATA --preset detect --include unlabelled --out RUN",
    "mammovae score RUN NEW-IMAGES --out scores.csv --review review.html",
)
"""Commands for images of one's own, to follow the demo."""

_FOLLOWS = 0.5
_GUESSING = (
    "With so few patients, this figure says nothing about other images.",
    "The interval lies above 0.5: on images like these the score is better than guessing.",
    "The interval lies below 0.5: the score ranks images with findings as closer to healthy.",
    "The interval includes 0.5: these images do not show that the score is better than guessing.",
)


def summarise_detection(metrics: DetectionMetrics, by_patient: bool) -> list[str]:
    """Return the headline figure in words, what it may be called, and how it stands to the best baseline."""
    row = metrics.headline
    if row.value is None:
        return []
    unit, whose = (
        ("whole patients", "patients") if by_patient else ("images, as patients are unknown (not by patient)", "images")
    )
    interval = f"without an interval (too few: fewer than {FEWEST_PATIENTS} patients in a group)"
    if row.low is not None and row.high is not None:
        ends = f"{signed(row.low)} to {signed(row.high)}"
        interval = f"95 % interval {ends} over {metrics.resamples:,} resamples of {unit}"
    lines = [
        f"Of one image with a finding and one of the healthy images {UNAFFECTED}, drawn at random, the "
        f"{lowered(row.label)} is higher for "
        f"the one with the finding {100 * row.value:.0f} times in 100: AUROC {signed(row.value)}, {interval}, from "
        f"{row.n_healthy:,} healthy images {UNAFFECTED} and {row.n_finding:,} with a finding: of "
        f"{metrics.n_patients:,} {whose} together.",
        _compared(row, 0.5, _GUESSING),
    ]
    if metrics.differences:
        lines.append(_against_baseline(metrics))
    correlations = [(metrics.correlations[other.name], other.label) for other in metrics.baselines]
    rho, label = max(correlations, key=lambda pair: abs(pair[0] or 0), default=(None, ""))
    if rho is not None and abs(rho) >= _FOLLOWS:
        lines.append(
            f"Among these healthy images the score goes with {lowered(label)} (Spearman {signed(rho)}): "
            "to that extent it measures the same thing, whatever its name."
        )
    second = metrics.affected.get(row.name)
    if second is not None and second.value is not None:
        lines.append(
            f"Against the other healthy images, whose patient has a finding elsewhere, it is {second.text}, with "
            f"{second.n_healthy:,} of them. A score that "
            "compares the two breasts of a patient should be read from the first figure alone."
        )
    if (precision := metrics.average_precision).value is not None:
        share = f"{row.n_finding / (row.n_finding + row.n_healthy):.2f}, the share of findings"
        lines.append(f"Average precision is {precision.text}; a random score would have {share}.")
    if metrics.n_unknown:
        lines.append(f"{metrics.n_unknown:,} more scored images are in neither group: their health is unknown.")
    return lines


def lowered(label: str) -> str:
    """Return a label for the middle of a sentence: "Mean grey" -> "mean grey", but "PCA residual" as it is."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:] or "score"


def _compared(row: Estimate, level: float, texts: tuple[str, str, str, str]) -> str:
    """Return the text for no interval, one above the level, one below it, or one that includes it."""
    if row.low is None or row.high is None:
        return texts[0]
    return texts[1] if row.low > level else texts[2] if row.high < level else texts[3]


def _against_baseline(metrics: DetectionMetrics) -> str:
    pairs = [pair for pair in zip(metrics.baselines, metrics.differences, strict=True) if pair[0].value is not None]
    best, difference = max(pairs, key=lambda pair: pair[0].value or 0)
    includes = ": the interval includes 0, so these images do not show that it beats the baseline."
    end = _compared(difference, 0, (".", ": the score beats it.", ": the score falls behind it.", includes))
    return (
        f"The best baseline is {lowered(best.label)} with {best.text}; the score’s AUROC minus that one is "
        f"{difference.text}{end}"
    )
