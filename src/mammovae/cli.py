"""The verbs of the command line: one function of a few lines each; what they need is imported inside."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

from mammovae.config import (
    DensityClass,
    Layout,
    PrepareSettings,
    PresetName,
    SamplingMode,
    Side,
    SourceKind,
    TrainSettings,
    View,
)

FLAGS = Parameter(name="*", group=Group("Settings", sort_key=2))
Out = Annotated[Path, Parameter(help="Where the result goes; the same command again completes it.")]
Workers = Annotated[
    int | None, Parameter(help="Worker processes; by default one for each core.", validator=validators.Number(gte=1))
]
Cluster = Annotated[
    str | None,
    Parameter(
        help="Do the work on a Dask cluster: its scheduler's address (tcp://host:8786), or 'local' to start one here."
    ),
]
Timeout = Annotated[
    float | None,
    Parameter(
        help="Longest that one file may take in a worker, in seconds; by default 600.",
        validator=validators.Number(gt=0),
    ),
]
Seed = Annotated[int, Parameter(validator=validators.Number(gte=0))]


def demo(*, out: Out = Path("runs/demo"), seed: Seed = 0) -> None:
    """Run the whole way on phantoms: make them, prepare, train, generate, audit, score, evaluate, report.

    Example: mammovae demo --out runs/demo
    """
    from mammovae.demo_study import demo

    print(f"report: {demo(out=out, seed=seed)}")


def phantom(
    *,
    out: Out,
    layout: Layout = "vindr",
    patients: int = 40,
    size: int = 512,
    seed: Seed = 0,
    finding_share: float = 0.3,
    traps: bool = False,
    workers: Workers = None,
) -> None:
    """Write synthetic mammograms with known truth as a raw tree for prepare.

    Example: mammovae phantom --out RAW --layout vindr --patients 40

    Parameters
    ----------
    layout
        The shape of the tree: VinDr-Mammo as released, its PNG copy, loose DICOM files, or a folder of PNG.
    patients
        Patients, of four images each.
    size
        Rows of an image, in pixels.
    seed
        The same seed gives the same bytes.
    finding_share
        Share of the patients who get a planted lesion.
    traps
        Plant every trap that real data sets hold: broken files, wrong headers, odd encodings.
    """
    from mammovae.phantoms.write import write_phantoms

    write_phantoms(
        out,
        layout=layout,
        patients=patients,
        size=size,
        seed=seed,
        finding_share=finding_share,
        traps=traps,
        workers=workers,
    )
    print(f"{patients} patients, {4 * patients} images in {out}")


def prepare(
    kind: SourceKind,
    path: Path,
    /,
    *,
    out: Out,
    settings: Annotated[PrepareSettings, FLAGS] = PrepareSettings(),
    workers: Workers = None,
    cluster: Cluster = None,
    timeout: Timeout = None,
    strict: bool = False,
) -> None:
    """Turn a raw data set into a DATA folder: squares, masks, index, splits by patient, contact sheet.

    Example: mammovae prepare vindr vindr-mammo --out DATA --side R --view MLO

    Parameters
    ----------
    kind
        The kind of data set.
    path
        The folder that holds it.
    strict
        Exit with status 1 when any image failed.
    """
    from mammovae.data.prepare import prepare
    from mammovae.report.formatting import count_line

    given = settings.given()
    facts = prepare(kind, path, out=out, workers=workers, cluster=cluster, timeout=timeout, **given)
    print(count_line(facts))
    if (out / "contact_sheet.png").is_file():
        print(f"look at {out / 'contact_sheet.png'}")
    if facts["counts"]["ok"] == 0 or (strict and facts["counts"]["failed"]):
        raise SystemExit(1)


def train(
    data: Path,
    /,
    *,
    preset: PresetName,
    out: Out,
    devices: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    settings: Annotated[TrainSettings, FLAGS] = TrainSettings(),
) -> None:
    """Train a preset on the healthy training images of a DATA folder.

    Example: mammovae train DATA --preset original --out RUN --side R --view MLO --limit 1000

    Parameters
    ----------
    data
        A folder that mammovae prepare wrote.
    preset
        Where the settings start from; every flag below replaces one of them; the defaults shown are seed's.
    devices
        GPUs of this machine (processes where it has none) that share out every batch; 1 by default. For several
        machines start this by torchrun on each, which says how many there are: torchrun ... -m mammovae train ...
    """
    from mammovae.training.distributed import ProcessGroup
    from mammovae.training.train import train

    facts = train(data, preset=preset, out=out, devices=devices, **settings.given())
    if ProcessGroup.here().rank == 0:
        print(f"trained on {facts['images']['train']} images in {facts['seconds']:.0f} s: {out}")


def generate(
    run: Path,
    /,
    *,
    out: Out,
    mode: SamplingMode = "latent",
    count: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 16,
    source: Path | None = None,
    seed: Seed = 0,
    temperature: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    side: Side | None = None,
    view: View | None = None,
    breast_density: DensityClass | None = None,
    dicom: bool = False,
) -> None:
    """Make new images from a run; the folder is itself a DATA folder.

    Example: mammovae generate RUN --count 64 --out GENERATED

    Parameters
    ----------
    run
        A folder that mammovae train wrote.
    mode
        latent: drawn from what was fitted to the training images' latents. prior: from N(0, I). vary: encode a
        training image, add noise, decode. interpolate: from one training image to another in eight steps. What vary
        and interpolate make is derived from patients' images and must be handled like them.
    count
        Number of images.
    source
        The DATA folder whose training images vary and interpolate start from.
    seed
        The same seed gives the same images.
    temperature
        Lower: more alike and more usual; higher: more unusual. By default 1.2 for latent, 1 for the others.
    side
        Only this side, where the run was told sides.
    view
        Only this view.
    breast_density
        Only this density class.
    dicom
        Write DICOM mammograms, marked synthetic, in place of PNG.
    """
    from mammovae.generation.generate import generate

    facts = generate(
        run,
        out=out,
        mode=mode,
        count=count,
        source=source,
        seed=seed,
        temperature=temperature,
        side=side,
        view=view,
        breast_density=breast_density,
        dicom=dicom,
    )
    failed = facts["counts"]["failed"]
    print(f"{count - failed} images in {out}, {failed} failed; {facts['note']}")
    print(f"look at {out / 'grid.png'}")


def score(
    run: Path,
    paths: list[Path],
    /,
    *,
    out: Annotated[Path, Parameter(help="The CSV file to write.")],
    maps: Path | None = None,
    review: Path | None = None,
    flag: float | None = None,
    workers: Workers = None,
    cluster: Cluster = None,
    timeout: Timeout = None,
    strict: bool = False,
) -> None:
    """Say how far images are from healthy: files, folders, DICOM, or DATA folders.

    Example: mammovae score RUN film.dcm more-films --out scores.csv --maps MAPS --review review.html --flag 0.05

    Parameters
    ----------
    run
        A folder that mammovae train wrote.
    paths
        What to score.
    maps
        A folder for a picture of each image with its map, and the map over the source's own pixels.
    review
        An HTML file that shows the 100 most suspicious images with their maps and reasons, refused ones first.
    flag
        A false-positive rate at which the column flag names the images that stand out.
    strict
        Exit with status 1 when any image failed.
    """
    from mammovae.detection.score import score

    where = {"workers": workers, "cluster": cluster, "timeout": timeout}
    table = score(run, paths, out=out, maps=maps, review=review, flag=flag, **where)
    failed = int(table["finding"].isna().sum())
    print(f"{len(table) - failed} images scored, {failed} failed: {out}")
    if failed == len(table) or (strict and failed):
        raise SystemExit(1)


def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    out: Out,
    protocol: Literal["full", "original"] = "full",
    seed: Seed = 0,
) -> None:
    """Judge a run on the test images of a DATA folder, and write metrics.json and report.html.

    Example: mammovae evaluate RUN DATA --out EVALUATION

    Parameters
    ----------
    run
        A folder that mammovae train wrote.
    data
        A folder that mammovae prepare wrote.
    protocol
        full: every test image whose health is known. seed: 20 healthy and 20 with findings, as the seed study did.
    seed
        Seed of the seed protocol's draw and of the report's generated images.
    """
    from mammovae.evaluation.evaluate import evaluate
    from mammovae.report.formatting import headline

    print(headline(evaluate(run, data, out=out, protocol=protocol, seed=seed)))
    print(f"report: {out / 'report.html'}")


def crossval(
    data: Path,
    /,
    *,
    out: Out,
    preset: PresetName = "detect",
    folds: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 5,
    cache: Path | None = None,
    other_view: Path | None = None,
    settings: Annotated[TrainSettings, FLAGS] = TrainSettings(),
) -> None:
    """Judge a preset on small data by patient-wise folds, beside the seed preset and trivial baselines.

    Example: mammovae crossval DATA --preset detect --folds 5 --out CROSSVAL

    Parameters
    ----------
    data
        A folder that mammovae prepare wrote, its raw files still in their place.
    preset
        What is judged.
    folds
        Number of folds; no patient is in two.
    cache
        A folder of trained members that attempts share; by default "members" beside --out.
    other_view
        A folder of images of the other view, to slip in among the planted faults; by default the data's, or phantoms.
    """
    from mammovae.cross_validation.crossval import crossval
    from mammovae.report.formatting import headline

    given = settings.given()
    metrics = crossval(data, out=out, preset=preset, folds=folds, cache=cache, other_view=other_view, **given)
    print("\n".join(metrics["conclusions"]) if "conclusions" in metrics else headline(metrics))
    print(f"report: {out / 'report.html'}")


def stress(
    run: Path, data: Path, /, *, out: Out, seed: Seed = 0, other_view: Path | None = None, workers: Workers = None
) -> None:
    """Plant technical faults and lesions into healthy test images, and say how many a run finds.

    Example: mammovae stress RUN DATA --out STRESS

    Parameters
    ----------
    run
        A folder that mammovae train wrote.
    data
        A folder that mammovae prepare wrote, its raw files still in their place.
    seed
        Seed of where and how faults and lesions are planted.
    other_view
        A folder of images of the other view, to slip in; by default the data's, or phantoms.
    """
    from mammovae.evaluation.stress import stress

    metrics = stress(run, data, out=out, seed=seed, other_view=other_view, workers=workers)
    words = f"mean AUROC {metrics['quality_auroc_mean']:.2f}, mean recall {metrics['quality_recall_5_mean']:.2f}"
    print(f"planted faults in {metrics['quality_n_healthy']} healthy images: {words} at 5 % review")
    print(f"look at {out / 'faults.png'} and {out / 'detectability.png'}")


def audit(
    generated: Path,
    run: Path,
    data: Path,
    /,
    *,
    out: Out,
    seed: Seed = 0,
    utility: PresetName | None = None,
) -> None:
    """Judge generated images: realistic, varied, and nobody's copy? Writes metrics.json and report.html.

    Example: mammovae audit GENERATED RUN DATA --out AUDIT

    Parameters
    ----------
    generated
        A folder that mammovae generate wrote.
    run
        The RUN folder that made it.
    data
        The DATA folder that the run was trained on.
    seed
        Seed of the subsamples.
    utility
        A preset to train on the generated and on as many real images, both judged on the same real test images.
    """
    from mammovae.auditing.audit import audit

    for conclusion in audit(generated, run, data, out=out, seed=seed, utility=utility)["conclusions"]:
        print(conclusion)
    print(f"report: {out / 'report.html'}")


def info(path: Path, /, *more: Path) -> None:
    """Say in words what a DATA folder, a RUN folder or an image is.

    Example: mammovae info DATA RUN film.dcm

    Parameters
    ----------
    path
        What to look at.
    more
        And what else.
    """
    from mammovae.describe import describe

    for place in (path, *more):
        print(describe(place))
