"""Whether the model's weights are here and whole; if not, whether they can be downloaded."""

from dataclasses import dataclass
from pathlib import Path

from sd_inpaint.diagnosis.disk import free_bytes
from sd_inpaint.diagnosis.finding import Finding, good, problem, size, warning
from sd_inpaint.diffusion import sources
from sd_inpaint.errors import WeightsError
from sd_inpaint.settings import Settings

SUBJECT = "weights"

DOWNLOAD_BYTES = 2_200_000_000
"""Of Stable Diffusion 1.5 in half precision, with its safety checker left out."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What was found.

    Attributes:
        findings: One or two.
        folder: Where the model is; None where it is not on this machine.
    """

    findings: list[Finding]
    folder: Path | None = None


def check_weights(settings: Settings) -> Weights:
    """Finds the model on this machine and hashes its files; where it is missing, asks the Hub if it has it."""
    if not settings.load:
        return Weights([good(SUBJECT, "LOAD_SD_INPAINT=false: no model is loaded.")])
    try:
        source = sources.verify(sources.locate(settings.model_copy(update={"offline": True})))
    except WeightsError as error:
        sentence, _, remedy = str(error).partition("\n")
        if settings.offline or not _is_on_the_hub(settings.model):
            return Weights([problem(SUBJECT, sentence, remedy)])
        return Weights(_check_download(settings, sentence, remedy))
    total = sum((source.folder / name).stat().st_size for name in source.files)
    where = "part of this package" if source.name == "demo" else str(source.folder)
    return Weights([good(SUBJECT, f"{source.name}: {len(source.files)} files, {size(total)}, {where}.")], source.folder)


def _is_on_the_hub(model: str) -> bool:
    """Whether a model is named by an id of the Hub: all others are on this machine or nowhere."""
    return not model.startswith((f"{sources.STORE_NAME}:", ".", "/", "~")) and not Path(model).exists()


def _check_download(settings: Settings, sentence: str, remedy: str) -> list[Finding]:
    if not sentence.startswith("The weights of"):  # they are here, and damaged
        return [problem(SUBJECT, sentence, remedy)]
    missing = f"The weights of {settings.model} are not on this machine."
    answers = sources.ask_mirrors(settings.model, sources.wanted_revision(settings))
    if all(answers.values()):
        reasons = "; ".join(f"{mirror}: {trouble}" for mirror, trouble in answers.items())
        sentence = f"The Hub does not give them ({reasons})."
        return [problem(SUBJECT, missing, remedy), problem("network", sentence, "Mend the connection to the Hub.")]
    reached = good(
        "network", f"{next(mirror for mirror, trouble in answers.items() if not trouble)} can be downloaded."
    )
    folder = sources.download_folder()
    if (free := free_bytes(folder)) < DOWNLOAD_BYTES:
        room = f"They need {size(DOWNLOAD_BYTES)}, and {folder} has {size(free)} free."
        return [
            problem(SUBJECT, f"{missing} {room}", "Free disk space, or set HF_HOME to a folder elsewhere."),
            reached,
        ]
    when = "The first start downloads them, about 2 GB."
    return [warning(SUBJECT, f"{missing} {when}", "To do that now: sd-inpaint models pull."), reached]
