"""The commands: each function below is one, on the command line and in Python, with the same parameters and checks.

Its first line is what `mammovae --help` says of it. What it needs is imported when it runs, so that help is fast.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Group, Parameter

from mammovae import arguments, config
from mammovae.arguments import checked
from mammovae.config import TrainSettings

_PATH, _FLAGS = Parameter(metavar="PATH"), Parameter(name="*", group=Group("Settings", sort_key=2))
# Text first: the command line would make a Path of the current folder of no text at all.
Place = Annotated[str | PathLike[str], arguments.TO_PATH, _PATH]
OptionalPlace = Annotated[Place | None, _PATH]
_PLACES = "Files and folders to look at."
Places = Annotated[Place, Parameter(required=True, help=_PLACES)]
AnyPlaces = Annotated[Place, arguments.ANY_NUMBER, Parameter(help=_PLACES)]
DataFolder = Annotated[Place, Parameter(help="A folder that mammovae prepare (or generate) wrote.")]
_SEVERAL = "Folders that mammovae prepare (or generate) wrote, read as one."
DataFolders = Annotated[Place, Parameter(required=True, help=_SEVERAL)]
RunFolder = Annotated[Place, Parameter(help="A folder that mammovae train wrote.")]
Out = Annotated[Place, Parameter(help="Where the result goes; the same command again completes it.")]
_OTHER_VIEW = "A folder of images of the other view, to insert as a fault; by default the data's, or phantoms."
OtherView = Annotated[OptionalPlace, Parameter(help=_OTHER_VIEW)]
Seed = Annotated[config.Seed, Parameter(help="Seed of all that is random: the same seed gives the same result.")]
Workers = Annotated[arguments.Workers | None, Parameter(help="Worker processes; by default one for each core.")]
_CLUSTER = "Do the work on a Dask cluster: its scheduler's address (tcp://host:8786), or 'local' to start one here."
Cluster = Annotated[arguments.Cluster | None, Parameter(help=_CLUSTER)]
_EXECUTOR = "In Python, any executor of concurrent.futures, to do the work instead of worker processes."
_TIMEOUT = "Longest that one file may take in a worker, in seconds; by default 600."
Timeout = Annotated[arguments.Seconds | None, Parameter(help=_TIMEOUT)]
_SYSTEM = "Describe this machine and what is installed, for a bug report: no name of a user or machine, no path."
Strict = Annotated[bool, Parameter(help="Exit with status 1 when any image failed.")]
_PRESET = "Where the settings start from; each one given replaces the preset's; the defaults shown are original's."
Preset = Annotated[config.PresetName, Parameter(help=_PRESET)]
_LAYOUT = "The shape of the tree: VinDr-Mammo as released, its PNG copy, loose DICOM files, or a folder of PNG."
_TRAPS = "Add every defect that real data sets hold: broken files, wrong headers, odd encodings."
_SHARE = "Share of the patients who get an inserted lesion."
_KINDS = get_args(config.LesionKind)
_LESIONS = "Kinds of inserted lesions, which take turns."
_CONTRAST = "Factor on the contrast of inserted lesions: the larger, the easier to see."
_SOME = "Only so many of the healthy test images, evenly spaced; by default all of them."
_CACHE = 'A folder of trained members that attempts share; by default "members" beside --out.'
_OF_TRAINING = "Only this one, where the training images had one; by default each image's is that of a training image."
_RETRY = "Try once more what failed or was missing, as after files were fetched again; all else stays as it is."
_EXPORT = "Also write images, masks and index.csv to OUT/export-png (16 bit) or OUT/export-npy, for other programs."
_MOST_LISTED = 20  # files left out that pack's last lines name
_SCORE_COLUMNS = ["image_id", "side", "view", "finding_percentile", "quality_percentile", "reason"]
"""What a notebook shows of scores.csv."""
TrainFlags = Annotated[TrainSettings, _FLAGS]


@dataclass(frozen=True, eq=False)
class Result(Mapping[str, Any]):
    """What a command made: result["auroc"] is one of its facts, str(result) what the command line prints.

    It is a mapping from names to facts, and can be given wherever a path can. A notebook shows the summary and the
    images.
    """

    path: Path  # the folder or file that it wrote
    facts: Mapping[str, Any] = field(repr=False)  # what was counted or measured, by name
    summary: str  # what the command line prints
    status: int = 0  # 1 when no image could be used or, with strict, when any failed
    images: tuple[Path, ...] = field(default=(), repr=False)  # of what it made, for a notebook

    def __getitem__(self, name: str) -> Any:
        """Return the fact of that name."""
        return self.facts[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the facts."""
        return iter(self.facts)

    def __len__(self) -> int:
        """Count the facts."""
        return len(self.facts)

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary

    def __fspath__(self) -> str:
        """Return the path."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show the summary, the images, the AUROCs and the highest finding scores, as far as there are any."""
        from mammovae.report import notebook

        parts = [notebook.text(self.summary)]
        parts += [notebook.image(path, path.stem.replace("_", " ")) for path in self.images if path.is_file()]
        if self.facts.get("auroc") is not None:
            parts.append(notebook.aurocs(self.facts))
        if "table" in self.facts:
            highest = self.facts["table"].sort_values("finding", ascending=False)
            parts.append(notebook.rows(highest[_SCORE_COLUMNS]))
        return notebook.card(str(self.path), *parts)


@checked
def demo(*, out: Out = Path("runs/demo"), seed: Seed = 0) -> Result:
    """Show on phantoms what mammovae can do: train two kinds of networks, evaluate both, and write one report.

    Example: mammovae demo --out runs/demo
    """
    from mammovae.demonstration.demo_settings import DemoSettings
    from mammovae.demonstration.demo_steps import run_demo
    from mammovae.report.formatting import headline
    from mammovae.report.summary_text import OWN_IMAGES

    folder = Path(out)
    metrics = run_demo(folder, seed, DemoSettings())
    lines = [headline(metrics), f"open {folder / 'report.html'} and {folder / 'review.html'} in a browser"]
    lines += ["then, on images of your own:", *(f"  {command}" for command in OWN_IMAGES)]
    return Result(folder, metrics, "\n".join(lines))


@checked
def phantom(  # noqa: PLR0913
    *,
    out: Out,
    layout: Annotated[config.Layout, Parameter(help=_LAYOUT)] = "vindr",
    patients: Annotated[arguments.Patients, Parameter(help="Patients, of four images each.")] = 40,
    size: Annotated[arguments.Rows, Parameter(help="Rows of an image, in pixels.")] = 512,
    seed: Seed = 0,
    finding_share: Annotated[arguments.Share, Parameter(help=_SHARE)] = 0.3,
    lesions: Annotated[config.LesionKinds, Parameter(help=_LESIONS)] = _KINDS,
    contrast: Annotated[arguments.Factor, Parameter(help=_CONTRAST)] = 1.0,
    traps: Annotated[bool, Parameter(help=_TRAPS)] = False,
    workers: Workers = None,
) -> Result:
    """Write synthetic mammograms with known truth as a raw tree for prepare.

    Example: mammovae phantom --out RAW --layout vindr --patients 40
    """
    from mammovae.phantoms.write import write_phantoms

    study: dict[str, Any] = {"layout": layout, "patients": patients, "size": size, "seed": seed}
    study |= {"finding_share": finding_share, "lesions": lesions}
    study |= {"contrast": contrast, "traps": traps}
    write_phantoms(Path(out), **study, workers=workers)
    return Result(Path(out), study, f"{patients} patients, {4 * patients} images in {out}")


@checked
def prepare(  # noqa: PLR0913
    kind: Annotated[config.SourceKind, Parameter(help="The kind of data set.")],
    path: Annotated[Place, Parameter(help="The folder, or the zip archive, that holds it.")],
    /,
    *,
    out: Out,
    settings: Annotated[config.PrepareSettings, _FLAGS] = config.PrepareSettings(),
    retry: Annotated[bool, Parameter(help=_RETRY)] = False,
    export: Annotated[config.ExportForm | None, Parameter(help=_EXPORT)] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    executor: Annotated[Executor | None, Parameter(parse=False, help=_EXECUTOR)] = None,
    timeout: Timeout = None,
    strict: Strict = False,
) -> Result:
    """Turn a raw data set into a DATA folder: prepared images, masks, index, splits by patient, contact sheet.

    A file that cannot be used, crashes its decoder or takes too long becomes a line in failures.csv.

    Example: mammovae prepare vindr vindr-mammo --out DATA --side R --view MLO
    """
    from mammovae.data.export import export as export_images
    from mammovae.data.prepare import prepare
    from mammovae.report.formatting import count_line

    where = {"workers": workers, "cluster": cluster, "executor": executor, "timeout": timeout}
    facts = prepare(kind, Path(path), Path(out), settings, retry=retry, **where)
    counts, sheet = facts["counts"], Path(out) / "contact_sheet.png"
    lines = [count_line(facts), *facts["notes"], *([f"look at {sheet}"] if sheet.is_file() else [])]
    if export is not None:
        lines.append(f"exported to {export_images(Path(out), export)}")
    status = int(counts["ok"] == 0 or (strict and counts["failed"] > 0))
    return Result(Path(out), facts, "\n".join(lines), status, (sheet,))


@checked
def train(
    *data: DataFolders,
    preset: Preset,
    out: Out,
    devices: arguments.Devices | None = None,
    settings: TrainFlags = TrainSettings(),
) -> Result:
    """Train a preset on the healthy training images of a DATA folder, or of several.

    Interrupted, the same command resumes from the last checkpoint and ends with the very same weights. Several folders
    give what one with the rows of all would give: a patient of two of them is in one split, and copies are used once.

    Example: mammovae train DATA --preset original --out RUN --side R --view MLO --limit 1000

    Parameters
    ----------
    devices
        GPUs of this machine (processes where it has none) that share out every batch; 1 by default. For several
        machines start this by torchrun on each, which says how many there are: torchrun ... -m mammovae train ...
    """
    from mammovae.data.dataset import Data
    from mammovae.training.distributed import ProcessGroup
    from mammovae.training.train import settings_for, train_on

    opened = Data.open(*data)
    facts = train_on(opened, Path(out), preset, settings_for(opened, preset, settings), devices=devices)
    summary = f"trained on {facts['images']['train']} images in {facts['seconds']:.0f} s: {out}"
    summary = "\n".join([*facts["joined"], summary])
    images = (Path(out) / "loss.png",)
    return Result(Path(out), facts, summary if ProcessGroup.join().rank == 0 else "", 0, images)


@checked
def generate(  # noqa: PLR0913
    run: RunFolder,
    /,
    *,
    out: Out,
    mode: config.SamplingMode = "latent",
    count: Annotated[arguments.Count, Parameter(help="Number of images.")] = 16,
    source: OptionalPlace = None,
    seed: Seed = 0,
    temperature: arguments.Temperature | None = None,
    side: Annotated[config.Side | None, Parameter(help=_OF_TRAINING)] = None,
    view: Annotated[config.View | None, Parameter(help=_OF_TRAINING)] = None,
    breast_density: Annotated[config.DensityClass | None, Parameter(help=_OF_TRAINING)] = None,
    dicom: bool = False,
) -> Result:
    """Generate images from a run; the folder is itself a DATA folder.

    Example: mammovae generate RUN --count 64 --out GENERATED

    Parameters
    ----------
    mode
        latent: drawn from what was fitted to the training images' latents. prior: from N(0, I). vary: encode a
        training image, add noise, decode. interpolate: from one training image to another in eight steps. What vary
        and interpolate make is derived from patients' images and must be handled like them.
    source
        The DATA folder whose training images vary and interpolate start from.
    temperature
        Lower: more alike and more usual; higher: more unusual. By default 1.2 for latent, 1 for the others.
    dicom
        Write DICOM mammograms, marked synthetic, in place of PNG.
    """
    from mammovae.data.dataset import Data
    from mammovae.generation.generate import generate_from
    from mammovae.generation.samplers import LatentSampler
    from mammovae.models.run import Run

    kinds = {"side": side, "view": view, "density": breast_density}
    conditions = {name: value for name, value in kinds.items() if value is not None}
    data = None if source is None else Data.open(source)
    sampler = LatentSampler(Run.open(run), mode, seed, data, temperature, conditions)
    facts = generate_from(sampler, Path(out), count, dicom)
    failed = facts["counts"]["failed"]
    grid = Path(out) / "grid.png"
    summary = f"{count - failed} images in {out}, {failed} failed; {facts['note']}\nlook at {grid}"
    return Result(Path(out), facts, summary, int(failed == count), (grid,))


@checked
def score(  # noqa: PLR0913
    run: RunFolder,
    /,
    *paths: Places,
    out: Annotated[Place, Parameter(help="The CSV file to write.")],
    maps: OptionalPlace = None,
    review: OptionalPlace = None,
    flag: arguments.Rate | None = None,
    white: config.White | None = None,
    workers: Workers = None,
    cluster: Cluster = None,
    timeout: Timeout = None,
    strict: Strict = False,
) -> Result:
    """Say how far images are from healthy: files, folders, DICOM, or DATA folders.

    A row of the CSV file is an image, and docs/reference/formats.md describes its columns; in Python result["table"] is
    the same as a DataFrame. An image that cannot be used is a row with a reason and no score.

    Example: mammovae score RUN image.dcm more-images --out scores.csv --maps MAPS --review review.html --flag 0.05

    Parameters
    ----------
    maps
        A folder for each image's anomaly map: NAME.png over the prepared image, and NAME.map.png over the source's own
        pixels, in 16 bit, where 8192 is what one healthy pixel in a thousand exceeds.
    review
        An HTML file that shows the 100 most suspicious images with their maps and reasons, refused ones first.
    flag
        A false-positive rate at which the column flag names the images that stand out; it is refused where the run
        has too few calibration patients to promise it.
    white
        White of 16-bit PNG and TIFF files; by default that of the run's training images.
    """
    from mammovae.detection.score import score

    folder, page = (None if place is None else Path(place) for place in (maps, review))
    where = {"workers": workers, "cluster": cluster, "timeout": timeout}
    what: dict[str, Any] = {"maps": folder, "review": page, "flag": flag, "white": white}
    table = score(Path(run), [Path(path) for path in paths], Path(out), **what, **where)
    failed = int(table["finding"].isna().sum())
    facts = {"table": table, "scored": len(table) - failed, "failed": failed}
    status = int(failed == len(table) or (strict and failed > 0))
    return Result(Path(out), facts, f"{facts['scored']} images scored, {failed} failed: {out}", status)


@checked
def evaluate(
    run: RunFolder, data: DataFolder, /, *, out: Out, protocol: config.Protocol = "full", seed: Seed = 0
) -> Result:
    """Evaluate a run on the test images of a DATA folder, and write metrics.json and report.html.

    Example: mammovae evaluate RUN DATA --out EVALUATION

    Parameters
    ----------
    protocol
        full: every test image whose health is known. original: 20 healthy and 20 with findings, drawn as the original
        study did.
    """
    from mammovae.evaluation.evaluate import evaluate
    from mammovae.report.formatting import headline

    metrics = evaluate(Path(run), Path(data), Path(out), protocol, seed)
    lines = [headline(metrics), *metrics["notes"], f"report: {Path(out) / 'report.html'}"]
    return Result(Path(out), metrics, "\n".join(lines))


@checked
def crossval(  # noqa: PLR0913
    data: DataFolder,
    /,
    *,
    out: Out,
    preset: Preset = "detect",
    folds: Annotated[arguments.Folds, Parameter(help="Number of folds; no patient is in two.")] = 5,
    cache: Annotated[OptionalPlace, Parameter(help=_CACHE)] = None,
    other_view: OtherView = None,
    settings: TrainFlags = TrainSettings(),
) -> Result:
    """Evaluate a preset on small data by patient-wise folds, beside the original preset and trivial baselines.

    Every image is scored by a run that never saw its patient. A preset that only generates is audited instead. The raw
    files must still be where they were prepared from. Interrupted, the same command resumes with the next fold.

    Example: mammovae crossval DATA --preset detect --folds 5 --out CROSSVAL
    """
    from mammovae.cross_validation.crossval import crossval
    from mammovae.report.formatting import headline

    shared = Path(cache) if cache is not None else Path(out).parent / "members"
    donors = None if other_view is None else Path(other_view)
    metrics = crossval(Path(data), Path(out), preset, settings, folds=folds, cache=shared, other_view=donors)
    conclusion = "\n".join(metrics["conclusions"]) if "conclusions" in metrics else headline(metrics)
    return Result(Path(out), metrics, f"{conclusion}\nreport: {Path(out) / 'report.html'}")


@checked
def stress(  # noqa: PLR0913
    run: RunFolder,
    data: DataFolder,
    /,
    *,
    out: Out,
    seed: Seed = 0,
    limit: Annotated[arguments.Count | None, Parameter(help=_SOME)] = None,
    other_view: OtherView = None,
    workers: Workers = None,
) -> Result:
    """Insert technical faults and lesions into healthy test images, and say how many a run finds.

    Faults go into the raw files, which must still be where they were prepared from.

    Example: mammovae stress RUN DATA --out STRESS
    """
    from mammovae.evaluation.stress import stress

    donors = None if other_view is None else Path(other_view)
    metrics = stress(Path(run), Path(data), Path(out), seed, limit=limit, other_view=donors, workers=workers)
    words = f"mean AUROC {metrics['quality_auroc_mean']:.2f}, mean recall {metrics['quality_recall_5_mean']:.2f}"
    faults = f"inserted faults in {metrics['quality_n_healthy']} healthy images: {words} at 5 % review"
    images = (Path(out) / "faults.png", Path(out) / "detectability.png")
    places = f"look at {images[0]} and {images[1]}"
    return Result(Path(out), metrics, "\n".join([faults, *metrics["notes"], places]), 0, images)


@checked
def audit(
    generated: Place, run: Place, data: Place, /, *, out: Out, seed: Seed = 0, utility: config.PresetName | None = None
) -> Result:
    """Measure how realistic, varied and private generated images are, and write metrics.json and report.html.

    Example: mammovae audit GENERATED RUN DATA --out AUDIT

    Parameters
    ----------
    generated
        A folder that mammovae generate wrote, or mammovae prepare from another generator's files.
    run
        The RUN folder that made it.
    data
        The DATA folder that the run was trained on; its healthy test images stand for "real".
    utility
        A preset to train on real images, on as many generated ones and on both, each evaluated on the same real test
        images.
    """
    from mammovae.auditing.audit import audit

    metrics = audit(Path(generated), Path(run), Path(data), Path(out), seed, utility)
    return Result(Path(out), metrics, "\n".join([*metrics["conclusions"], f"report: {Path(out) / 'report.html'}"]))


@checked
def pack(run: RunFolder, /, *, out: Annotated[Place, Parameter(help="The zip archive to write.")]) -> Result:
    """Pack a run into a zip archive that can be handed on: nothing that shows or names a patient is in it.

    What is not known to be without patients is left out, and listed; a file that does not hold what train wrote is
    refused. Unzipped, its folder is a run for every command.

    Example: mammovae pack RUN --out run.zip
    """
    from mammovae.packing import pack
    from mammovae.report.formatting import plural

    facts = pack(Path(run), Path(out))
    names = facts["left_out"]
    more = f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else ""
    absent = f"left out: {', '.join(names[:_MOST_LISTED])}{more}" if names else "nothing was left out"
    size = Path(out).stat().st_size / 1e6
    return Result(Path(out), facts, f"{absent}\n{plural(len(facts['files']), 'file')}, {size:,.1f} MB: {out}")


@checked
def info(*paths: AnyPlaces, system: Annotated[bool, Parameter(help=_SYSTEM)] = False) -> Result:
    """Say in words what a DATA folder, a RUN folder or an image is; of an image, how its values become grey.

    Of each image file: its kind, side and view and where they were read, every step from stored values to grey, what is
    odd about it, and what prepare makes of it or why it would refuse it.

    Example: mammovae info DATA RUN image.dcm
    """
    from mammovae.describe import describe, describe_system

    if not paths and not system:
        raise config.UsageError("setting 'paths' is empty: name files or folders, or ask for --system")
    facts = describe_system() if system else {}
    lines = [f"{name + ':':<22}{words}" for name, words in facts.items()]
    sentences, failed = describe([Path(path) for path in paths]) if paths else ({}, 0)
    summary = "\n".join([*lines, *sentences.values()])
    return Result(Path(*paths[:1]), facts | sentences, summary, int(failed > 0))
