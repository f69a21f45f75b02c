"""A result's origin, written into its file: the parameters for other tools, and the mark of generated pixels.

Both are made of what the request and the result hold; nothing of the caller's own EXIF, GPS or texts goes on.
"""

import json
import re
from typing import Final
from xml.sax.saxutils import quoteattr

from sd_inpaint import __version__
from sd_inpaint.imaging.record import NAMESPACE, Record
from sd_inpaint.prompt_syntax import write_lora_tags, write_web_ui
from sd_inpaint.schema import InpaintParameters, InpaintResult, MaskedContent, Region, SchedulerName

SOFTWARE: Final = f"sd-inpaint {__version__}"
"""The program's name and version as files carry it."""

SAMPLERS: Final[dict[SchedulerName, tuple[str, str | None]]] = {
    SchedulerName.DDIM: ("DDIM", None),
    SchedulerName.DDIM_A: ("DDIM", None),
    SchedulerName.PNDM: ("PLMS", None),
    SchedulerName.EULER: ("Euler", None),
    SchedulerName.EULER_KARRAS: ("Euler", "Karras"),
    SchedulerName.EULER_EXPONENTIAL: ("Euler", "Exponential"),
    SchedulerName.EULER_A: ("Euler a", None),
    # Without a type it is Karras there. diffusers' own spacing starts each step where the one before it ends, and that
    # is what the web UI has under this name.
    SchedulerName.DPMPP_2M: ("DPM++ 2M", "SGM Uniform"),
    SchedulerName.DPMPP_2M_KARRAS: ("DPM++ 2M", "Karras"),
    SchedulerName.DPMPP_2M_EXPONENTIAL: ("DPM++ 2M", "Exponential"),
    SchedulerName.DPMPP_2M_SDE_KARRAS: ("DPM++ 2M SDE", "Karras"),
    SchedulerName.DPMPP_2M_SDE_EXPONENTIAL: ("DPM++ 2M SDE", "Exponential"),
    SchedulerName.UNIPC: ("UniPC", None),
    SchedulerName.LCM: ("LCM", None),
}
"""Our names → A1111's sampler and schedule type, which is left out where "Automatic" means it there. The model's own
sampler has no name there and is left out."""

_SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""Source: IPTC NewsCodes, Digital Source Type; "composite with" is the term for inpainting and outpainting."""

_XMP: Final = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:sdInpaint={namespace}
    xmp:CreatorTool={tool}
    Iptc4xmpExt:DigitalSourceType={source_type}
    Iptc4xmpExt:AISystemUsed={model}{record}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
"""Source: XMP specification part 1, section 7; IPTC Photo Metadata 2025.1 for the two properties of the extension."""

_MAX_PACKET_BYTES: Final = 65_502
"""Source: XMP specification part 3, section 1.1.3: the packet that one segment of a JPEG holds."""

# XML 1.0 knows no other control characters, and no text file format can hold half a surrogate pair.
_UNWRITABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def texts(parameters: InpaintParameters, result: InpaintResult, seed: int, *, model: str) -> dict[str, str]:
    """The text chunks of a result: ``parameters`` as A1111 writes and many tools read it, and ``Software``.

    Args:
        parameters: The request's parameters.
        result: What came of it.
        seed: Of the picture that the text is about.
        model: The model's name as callers know it.

    Returns:
        Keyword → text; empty where nothing was painted.
    """
    if result.steps == 0:
        return {}
    sampler, schedule = SAMPLERS.get(parameters.scheduler, (None, None))
    cropped = parameters.region is not Region.FULL and any(not _is_whole(region, result) for region in result.regions)
    settings: dict[str, object] = {
        "Steps": parameters.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "Eta DDIM": 1 if parameters.scheduler is SchedulerName.DDIM_A else None,
        "CFG scale": f"{parameters.guidance_scale:g}",
        "Seed": seed,
        "Size": "{}x{}".format(*result.size),
        "Model": model,
        "Denoising strength": f"{parameters.strength:g}",
        "Mask blur": f"{parameters.mask_blur:g}" if parameters.mask_blur else None,
        "Mask grow": parameters.mask_grow or None,
        "Mask mode": "Inpaint not masked" if parameters.mask_invert else None,
        "Masked content": _masked_content(parameters),
        "Inpaint area": "Only masked" if cropped else None,
        "Masked area padding": parameters.padding if cropped else None,
        "RNG": "CPU",
        "Region": "; ".join(result.regions),
        "Plan": result.plan or None,
    }
    prompt = write_web_ui(parameters.prompt, parameters.syntax) + write_lora_tags(parameters.loras)
    lines = [writable(prompt)]
    if parameters.negative_prompt:
        lines.append(f"Negative prompt: {writable(write_web_ui(parameters.negative_prompt, parameters.syntax))}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None))
    return {"parameters": "\n".join(lines), "Software": SOFTWARE}


def xmp(result: InpaintResult, *, model: str, record: Record | None = None) -> bytes | None:
    """The XMP packet that says a trained model made some, or all, of the picture.

    Args:
        result: The request's result.
        model: The model's name as callers know it.
        record: How the picture was made; is left out if the packet would be larger than a JPEG can hold.

    Returns:
        UTF-8; None where nothing was painted.
    """
    if result.steps == 0:
        return None
    written = "" if record is None else f"\n    sdInpaint:Record={quoteattr(record.write())}"
    packets = (
        _XMP.format(
            tool=quoteattr(SOFTWARE),
            source_type=quoteattr(source_type(result)),
            namespace=quoteattr(NAMESPACE),
            model=quoteattr(writable(model)),
            record=each,
        ).encode("utf-8")
        for each in (written, "")
    )
    return next(packet for packet in packets if len(packet) <= _MAX_PACKET_BYTES)


def source_type(result: InpaintResult) -> str:
    """Returns IPTC's term for a picture of which a trained model made all, or some, as an address."""
    return _SOURCE_TYPES + (
        "trainedAlgorithmicMedia" if result.is_all_painted else "compositeWithTrainedAlgorithmicMedia"
    )


def _masked_content(parameters: InpaintParameters) -> str | None:
    """A1111's words for it; "original" is what they leave out."""
    if parameters.strength == 1:
        return "latent noise"
    return "fill" if parameters.masked_content is MaskedContent.FILL else None


def _is_whole(region: str, result: InpaintResult) -> bool:
    width, height = result.size
    return region.startswith(f"0,0,{width},{height}@")


def writable(text: str) -> str:
    """Returns a text without the characters that XML and UTF-8 files cannot hold."""
    return _UNWRITABLE.sub("", text)


def _quoted(value: object) -> str:
    """Values with a comma, colon or line break are JSON strings, as the readers of this format expect."""
    text = writable(str(value))
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
