"""The model card: true to the run, without a patient or a path, and never in the way of a figure."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.data.data_folders import breasts, row, write_data

import mammovae as mv
from mammovae.evaluation import evaluate as evaluate_file
from mammovae.report.recorded_figures import FIGURES
from mammovae.storage import MANIFEST, StageFolder
from mammovae.training.model_card import CARD, write_card

SPLITS = ("train", "train", "train", "validation", "calibration", "test")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run as it was trained, which a test may change."""
    ours = tmp_path / "copy"
    shutil.copytree(run, ours, ignore=shutil.ignore_patterns(FIGURES))
    opened = mv.Run.open(ours)
    write_card(ours, opened.manifest, opened.settings)
    return ours


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA of patients, of whom more is known than of phantoms."""
    rows = [
        row(f"image-{n}", f"patient-{n}", SPLITS[n % 6], density="B", vendor="ACME | X", age=50.0 + n % 3)
        for n in range(36)
    ]
    return write_data(tmp_path_factory.mktemp("patients") / "data", rows, *breasts(36, 3))


@pytest.fixture(scope="module")
def trained(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = mv.TrainSettings(epochs=2, vae={"size": 32})
    return mv.train(patients, out=tmp_path_factory.mktemp("trained") / "run", preset="tiny", settings=settings).path


def matter_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_says_what_the_hub_asks(trained: Path, run: Path) -> None:
    matter = matter_of((trained / CARD).read_text())
    assert matter["license"] == "other" and matter["library_name"] == "mammovae"
    assert matter["pipeline_tag"] == "unconditional-image-generation", "its network generates"
    assert {"mammography", "anomaly-detection", "image-generation"} <= set(matter["tags"])
    assert matter_of((run / CARD).read_text())["license"] == "apache-2.0", "phantoms are nobody's"


def test_the_card_tells_the_numbers_of_the_run(trained: Path) -> None:
    card, manifest = (trained / CARD).read_text(), json.loads((trained / MANIFEST).read_text())
    assert "| vae | 3x3 convolutions" in card and f"| {manifest['parameters']['vae']:,} | 32 | 2 |" in card
    assert "| train | 18 | 18 |" in card and "| calibration | 6 | 6 |" in card
    assert "| B | 18 |" in card and r"| ACME \| X | 18 |" in card and "| 50 to 59 | 18 |" in card
    assert "rest on 6 images known to be healthy of 6 patients" in card and "above 85.7" in card
    assert "| device | CPU |" in card and "Not evaluated yet" in card
    for heading in ("Uses", "Training data", "Training", "Calibration", "Figures", "Limits", "Privacy", "Licence"):
        assert card.count(f"\n## {heading}\n") == 1


def test_no_patient_and_no_path_is_in_the_card(trained: Path, patients: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    mv.evaluate(copy, patients, out=tmp_path / "evaluation")
    texts = [(copy / CARD).read_text(), *(path.read_text() for path in (copy / FIGURES).iterdir())]
    assert not [text for text in texts if re.search(r"patient-\d|image-\d|dicom:", text)]
    folders = {str(parent) for place in (trained, patients, tmp_path) for parent in (place, *place.parents)} - {"/"}
    assert not [folder for folder in folders for text in texts if folder in text]


def test_evaluate_and_stress_add_their_figures_once_each(copy: Path, trapped_data: Path, tmp_path: Path) -> None:
    metrics = mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")
    mv.evaluate(copy, trapped_data, out=tmp_path / "again")
    stressed = mv.stress(copy, trapped_data, out=tmp_path / "stress", workers=2)
    card = (copy / CARD).read_text()
    assert card.count("### Evaluation on test images of the data that the run was trained on (vindr, phantoms)") == 1
    numbers = f"{metrics['n_healthy']:,} healthy, {metrics['n_finding']:,} with a finding"
    row = rf"\| AUROC of the finding score, against .* \| {metrics['auroc']:.2f} \((.*)\) \| {numbers} \|"
    assert re.search(row, card) and "### Stress test on test images" in card
    assert f"{stressed['quality_auroc_mean']:.2f}" in card and "Not evaluated" not in card
    for label in ("mean grey", "breast area", "PCA residual", "blob filter"):
        assert f"baseline: {label}, AUROC" in card


def test_figures_of_data_that_the_run_may_have_learnt_from_say_so(
    copy: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    shutil.rmtree(copy / "private")
    other = mv.PrepareSettings(size=64, seed=3)
    data = mv.prepare("vindr", trapped_raw, out=tmp_path / "data", settings=other, workers=2).path
    mv.evaluate(copy, data, out=tmp_path / "evaluation")
    card = (copy / CARD).read_text()
    assert "of another DATA folder" in card and "trained on these patients could not be checked." in card


def test_a_run_that_cannot_be_written_to_is_evaluated_and_what_its_card_lacks_is_said(
    trained: Path, patients: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, small_disk / "run", ignore=shutil.ignore_patterns(FIGURES))
    before = (small_disk / "run" / CARD).read_text()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert mv.evaluate(small_disk / "run", patients, out=tmp_path / "evaluation")["n_healthy"] > 0
    sentence = f"the figures are not in the model card of {small_disk / 'run'}: Read-only file system\n"
    assert sentence in capsys.readouterr().err
    assert (small_disk / "run" / CARD).read_text() == before


def test_once_it_can_be_written_to_the_same_command_adds_them(
    copy: Path, trapped_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(evaluate_file, "record_on_card", interrupt)
        mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")
    assert "Not evaluated yet" in (copy / CARD).read_text()
    mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")
    assert "### Evaluation" in (copy / CARD).read_text()


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_training_interrupted_at_its_end_and_repeated_has_the_same_card(
    trained: Path, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mv.TrainSettings(epochs=2, vae={"size": 32})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StageFolder, "finish", interrupt)
        mv.train(patients, out=tmp_path / "run", preset="tiny", settings=settings)
    mv.train(patients, out=tmp_path / "run", preset="tiny", settings=settings)
    cards = [(folder / CARD).read_text().partition("## Training\n") for folder in (trained, tmp_path / "run")]
    assert cards[0][0] == cards[1][0]


def without_facts(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({n: v for n, v in manifest.items() if n != "training_data"}))


def with_foreign_figures(copy: Path) -> None:
    (copy / FIGURES).mkdir()
    (copy / FIGURES / f"stress-{'0' * 16}.json").write_text('{"patient_id": 3}')


def with_a_folder_for_a_card(copy: Path) -> None:
    (copy / CARD).unlink()
    (copy / CARD).mkdir()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            without_facts,
            "its manifest.json does not say training_data: it was trained by an older mammovae; train again",
        ),
        (with_foreign_figures, "holds no figures of a run"),
        (with_a_folder_for_a_card, "Is a directory"),
    ],
)
def test_an_odd_run_is_evaluated_and_what_its_card_lacks_is_said(
    copy: Path, trapped_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None], reason: str,
) -> None:  # fmt: skip
    change(copy)
    assert mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")["n_finding"] > 0
    said = capsys.readouterr().err
    assert f"the figures are not in the model card of {copy}: " in said and reason in said


def test_a_card_that_links_elsewhere_is_replaced_and_nothing_is_written_there(
    copy: Path, trapped_data: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.md"
    elsewhere.write_text("another's")
    (copy / CARD).unlink()
    (copy / CARD).symlink_to(elsewhere)
    mv.evaluate(copy, trapped_data, out=tmp_path / "evaluation")
    assert elsewhere.read_text() == "another's" and not (copy / CARD).is_symlink()
