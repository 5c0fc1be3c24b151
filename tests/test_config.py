"""Settings: the presets, what replaces them, and what a mistake is told."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from mammovae.config import PRESETS, InputError, PrepareSettings, TrainSettings, UsageError, VaeSettings, preset
from mammovae.models.run import MEMBERS, build_members
from mammovae.models.vae import Vae

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_the_original_preset_is_the_study_as_described() -> None:
    study = preset("original")
    assert (study.epochs, study.batch_size, study.learning_rate) == (60, 32, 1e-3)
    assert (study.vae.size, study.vae.filters, study.vae.latent) == (128, (32, 64, 128, 256), 1024)
    assert (study.side, study.view, study.limit) == (None, None, None)


def test_replacing_a_nested_setting_keeps_its_neighbours() -> None:
    changed = preset("original", {"vae": {"latent": 16}})
    assert changed.vae.latent == 16
    assert changed.vae.filters == PRESETS["original"].vae.filters


def test_only_what_was_set_by_hand_is_laid_over_a_preset() -> None:
    given = TrainSettings(epochs=3, vae=VaeSettings(latent=4)).given()
    assert given == {"epochs": 3, "vae": {"latent": 4}}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_the_way_through_toml(name: str) -> None:
    text = tomli_w.dumps(PRESETS[name].model_dump(exclude_none=True))
    assert TrainSettings(**tomllib.loads(text)) == PRESETS[name]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, "there is no setting 'epoch': did you mean 'epochs'?"),
        ({"vae": {"latents": 3}}, "there is no setting 'vae.latents': did you mean 'latent'?"),
        ({"epochs": 0}, "setting 'epochs' cannot be 0: input should be greater than or equal to 1"),
        ({"side": "left"}, "setting 'side' cannot be 'left': did you mean one of L, R?"),
        ({"side": "l"}, "setting 'side' cannot be 'l': did you mean 'L'?"),
        (
            {"members": ("vae", "vae")},
            "setting 'members' cannot be ('vae', 'vae'): 'vae' is there twice: name each once",
        ),
        ({"maps": ()}, "setting 'maps' cannot be (): give at least 1"),
        ({"epochs": True}, "setting 'epochs' cannot be True: give a number, not a truth value"),
    ],
)
def test_a_mistake_is_one_sentence_that_helps(values: dict, sentence: str) -> None:
    for build in (lambda: preset("original", values), lambda: TrainSettings(**values)):
        with pytest.raises(UsageError) as error:
            build()
        assert str(error.value) == sentence


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no preset 'orignal': choose 'original'"):
        preset("orignal")


def test_a_network_that_no_memory_holds_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(Vae):
        def __init__(self, settings: VaeSettings) -> None:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setitem(MEMBERS, "vae", Huge)
    with pytest.raises(InputError, match="vae does not fit into this machine's memory: make it smaller"):
        build_members(PRESETS["tiny"])


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PrepareSettings().size = 3  # pyrefly: ignore


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_a_configuration_that_the_project_brings_is_one_that_a_preset_takes(path: Path) -> None:
    values = tomllib.loads(path.read_text())
    chosen = preset(path.stem.split("-")[0], values["train"])
    assert chosen.merged(values["train"]) == chosen
    build_members(chosen)
