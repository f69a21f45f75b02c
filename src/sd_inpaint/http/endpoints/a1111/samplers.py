"""Samplers and schedules by the web UI's names → this service's schedulers.

Since version 1.9 of the web UI a schedule stands beside the sampler; older names have it inside ("DPM++ 2M Karras").
"Automatic", or none, is the schedule that the sampler itself names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sd_inpaint.errors import InvalidParameterError
from sd_inpaint.schema import SchedulerName

AUTOMATIC: Final = "Automatic"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How noise is spread over the steps, as the web UI lists it."""

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    default_rho: float = -1.0
    need_inner_model: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that it is called, in small letters."""
        return tuple(name.lower() for name in (self.label, self.name, *self.aliases))


SCHEDULES: Final = (
    Schedule("automatic", AUTOMATIC),
    Schedule("uniform", "Uniform", need_inner_model=True),
    Schedule("karras", "Karras", default_rho=7.0),
    Schedule("exponential", "Exponential"),
    Schedule("polyexponential", "Polyexponential", default_rho=1.0),
    Schedule("sgm_uniform", "SGM Uniform", ("SGMUniform",), need_inner_model=True),
    Schedule("kl_optimal", "KL Optimal"),
    Schedule("align_your_steps", "Align Your Steps"),
    Schedule("simple", "Simple", need_inner_model=True),
    Schedule("normal", "Normal", need_inner_model=True),
    Schedule("ddim", "DDIM", need_inner_model=True),
    Schedule("beta", "Beta", need_inner_model=True),
)
"""All that the web UI knows, in its order."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler.

    Attributes:
        name: The web UI's.
        aliases: Its other names there, in small letters.
        schedules: A schedule's label → the scheduler; those that are missing are refused.
        any_schedule: The scheduler under every schedule, for the samplers that ignore it in the web UI too.
        options: As the web UI lists them.
        etas: The values that ``eta`` may have, the default first; empty if the sampler does not use it.
        draws_noise: Whether ``s_noise`` counts while ``s_churn`` is 0.
    """

    name: str
    aliases: tuple[str, ...]
    schedules: Mapping[str, SchedulerName] = field(default_factory=dict)
    any_schedule: SchedulerName | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    etas: tuple[float, ...] = ()
    draws_noise: bool = False


_PLAIN = (AUTOMATIC, "Uniform", "Normal")
"""Uniform and Normal are one formula from the noisiest timestep to the last, which is also what Automatic is here."""

SAMPLERS: Final = (
    Sampler(
        "DPM++ 2M",
        ("k_dpmpp_2m",),
        {
            AUTOMATIC: SchedulerName.DPMPP_2M_KARRAS,
            "Karras": SchedulerName.DPMPP_2M_KARRAS,
            "Exponential": SchedulerName.DPMPP_2M_EXPONENTIAL,
            "SGM Uniform": SchedulerName.DPMPP_2M,
        },
        options={"scheduler": "karras"},
    ),
    Sampler(
        "DPM++ 2M SDE",
        ("k_dpmpp_2m_sde",),
        {
            AUTOMATIC: SchedulerName.DPMPP_2M_SDE_EXPONENTIAL,
            "Karras": SchedulerName.DPMPP_2M_SDE_KARRAS,
            "Exponential": SchedulerName.DPMPP_2M_SDE_EXPONENTIAL,
        },
        options={"scheduler": "exponential", "brownian_noise": True},
        etas=(1.0,),
        draws_noise=True,
    ),
    Sampler(
        "Euler a",
        ("k_euler_a", "k_euler_ancestral"),
        dict.fromkeys(_PLAIN, SchedulerName.EULER_A),
        options={"uses_ensd": True},
        etas=(1.0,),
    ),
    Sampler(
        "Euler",
        ("k_euler",),
        {
            **dict.fromkeys(_PLAIN, SchedulerName.EULER),
            "Karras": SchedulerName.EULER_KARRAS,
            "Exponential": SchedulerName.EULER_EXPONENTIAL,
        },
    ),
    Sampler("DDIM", ("ddim",), any_schedule=SchedulerName.DDIM, etas=(0.0, 1.0)),
    Sampler("PLMS", ("plms",), any_schedule=SchedulerName.PNDM),
    Sampler("UniPC", ("unipc",), any_schedule=SchedulerName.UNIPC),
    Sampler("LCM", ("k_lcm",), {AUTOMATIC: SchedulerName.LCM}),
)

_OLD_ALIASES: Final = {
    "k_dpmpp_2m_ka": "DPM++ 2M Karras",
    "k_dpmpp_2m_sde_ka": "DPM++ 2M SDE Karras",
    "k_dpmpp_2m_sde_exp": "DPM++ 2M SDE Exponential",
}
"""Of versions before 1.9, which had a sampler for each schedule."""


def offered_schedules() -> Iterator[Schedule]:
    """Yields the schedules that some sampler takes."""
    taken = {label for sampler in SAMPLERS for label in sampler.schedules}
    return (schedule for schedule in SCHEDULES if schedule.label in taken)


def read_sampler(name: str, schedule: str) -> tuple[Sampler, SchedulerName]:
    """Finds a sampler with its schedule.

    Args:
        name: Any of the web UI's names, in any case; a schedule in it goes before the one beside it, as there.
        schedule: A schedule's name or label, in any case; empty is ``Automatic``.

    Raises:
        InvalidParameterError: If the sampler or the schedule is unknown, or the two are not served together.
    """
    short, label = _OLD_ALIASES.get(name.strip().lower(), name).strip(), _read_schedule(schedule)
    for known in SCHEDULES:
        ending = next((f" {name}" for name in known.names if short.lower().endswith(f" {name}")), None)
        if ending is not None:
            short, label = short[: -len(ending)].strip(), known.label
            break
    sampler = next((s for s in SAMPLERS if short.lower() in (s.name.lower(), *s.aliases)), None)
    if sampler is None:
        offered = ", ".join(sampler.name for sampler in SAMPLERS)
        raise InvalidParameterError(
            f"The sampler_name {name[:60]!r} is not served. Known samplers: {offered}.", field="sampler_name"
        )
    scheduler = sampler.any_schedule or sampler.schedules.get(label)
    if scheduler is None:
        raise InvalidParameterError(
            f"The scheduler {label!r} is not served for {sampler.name}; use {', '.join(sampler.schedules)}.",
            field="scheduler",
        )
    return sampler, scheduler


def _read_schedule(text: str) -> str:
    wanted = text.strip().lower() or AUTOMATIC.lower()
    for schedule in SCHEDULES:
        if wanted in schedule.names:
            return schedule.label
    offered = ", ".join(schedule.label for schedule in offered_schedules())
    raise InvalidParameterError(
        f"The scheduler {text[:60]!r} is unknown. Known schedulers: {offered}.", field="scheduler"
    )
