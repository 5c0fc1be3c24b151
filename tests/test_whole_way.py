"""Both layouts of VinDr-Mammo, with every defect of real archives, from raw files to a report."""

import json
from pathlib import Path

import pandas as pd
import pytest

import mammovae as mv
from mammovae.config import Layout

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", ["vindr", "vindr-png"])
def test_a_tree_with_every_defect_goes_the_whole_way(layout: Layout, tmp_path: Path) -> None:
    raw = mv.phantom(out=tmp_path / "raw", layout=layout, patients=24, size=96, traps=True, workers=2).path
    truth = json.loads((raw / "truth.json").read_text())
    facts = mv.prepare("vindr", raw, out=tmp_path / "data", workers=2, settings=mv.PrepareSettings(size=32))
    broken = {truth["trapped"][name][0] for name in ("truncated", "not_an_image")}
    if layout == "vindr":
        broken.add(truth["trapped"]["for_processing"][0])
    failures = pd.read_csv(tmp_path / "data" / "failures.csv")
    assert set(failures["image_id"]) == broken
    assert facts["counts"]["missing"] == 1
    assert facts["counts"]["ok"] == 96 - len(broken) - 1
    frame = mv.Data.open(tmp_path / "data").index
    for row in frame.itertuples():
        known = truth["images"][row.image_id]
        assert (row.side, row.view, row.density) == (known["side"], known["view"], known["density"])
        if row.image_id not in truth["trapped"]["one_view"]:
            health = None if pd.isna(row.healthy) else bool(row.healthy)
            assert health == known["healthy"], row.image_id
    mv.train(
        tmp_path / "data", out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(epochs=1, vae={"size": 32})
    )
    mv.generate(tmp_path / "run", out=tmp_path / "generated", count=2)
    metrics = mv.evaluate(tmp_path / "run", tmp_path / "data", out=tmp_path / "evaluation")
    assert metrics["n_finding"] > 0 and metrics["n_healthy"] > 0
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert len(page) > 50_000 and "phantoms, no patients" in page
