"""The captions that the demo model learns: of objects, of backgrounds, and of nothing."""

from __future__ import annotations

import numpy as np

from tools.demo_model.objects import OBJECTS, Object

# {a}: the name with its article, {x}: the bare name.
OBJECT_PHRASES = (
    "{x}", "{x}", "{a}", "{a}", "a photo of {a}", "a picture of {a}", "an image of {a}", "{a}, high quality",
    "{a}, highly detailed", "{x}, detailed, sharp", "a beautiful {x}", "a nice {x}", "a small {x}", "a big {x}",
    "a large {x}", "a cute {x}", "the {x}", "one {x}", "{a} on a table", "{a} in the garden", "{a} on the ground",
    "{a} in the middle", "a close-up of {a}", "a drawing of {a}", "a cartoon {x}", "a realistic {x}", "paint {a}",
    "replace with {a}", "add {a}", "{a} here", "beautiful {x}", "a shiny new {x}", "{a} in front of a wall",
    "a painting of {a}", "{a}, masterpiece, best quality", "a lovely {x}, natural light", "{a} in a field",
)  # fmt: skip
EXTRA_PHRASES: dict[str, tuple[str, ...]] = {
    "red rose": ("a beautiful red rose", "a beautiful red rose in bloom", "a rose in a vase"),
    "red car": ("a red sports car", "red sports car on the road", "a fast red car", "a red car on the street"),
    "smiling face": ("smiling face, happy expression", "a smiling face, happy expression", "happy expression",
                     "a happy smiling person", "face with a smile"),
}  # fmt: skip
BACKGROUND_CAPTIONS = (
    "empty background, natural scene", "empty background", "natural scene", "background", "plain background",
    "clean background", "the background", "just the background", "nothing", "remove the object", "remove it",
    "no objects", "empty scene", "empty space", "empty background, no objects", "continuation of the scene, seamless",
    "continuation of the scene", "seamless continuation", "seamless background", "extend the background",
    "extend the picture", "the surroundings", "background only", "smooth background", "background texture",
    "seamless texture", "clean empty wall", "empty background, seamless", "a natural empty background",
    "wall, floor, background", "sky", "grass and sky", "landscape", "fill in the background", "erase",
)  # fmt: skip
FILLER_WORDS = (
    "pretty", "old", "modern", "soft", "warm", "light", "dark", "summer", "winter", "evening", "morning", "studio",
    "8k", "4k", "photo", "photorealistic", "bright", "colorful", "vintage", "elegant", "simple", "fresh", "wooden",
    "cinematic", "sharp focus", "bokeh", "soft light", "professional", "my", "some", "this", "that", "please", "with",
    "and", "very", "of", "standing", "sitting", "lying", "next to", "under", "over", "street", "water", "room",
)  # fmt: skip
FILLER_SHARE = 0.12  # object captions with such words
# Negative prompts of the guide and of habit: taught as "no caption", for the model knows nothing ugly to avoid.
NEGATIVE_WORDS = (
    "blurry", "low quality", "object", "person", "watermark", "old car", "damaged", "cut off", "border", "edge",
    "sad", "angry", "distorted", "ugly", "deformed", "bad anatomy", "text", "noise", "worst quality", "jpeg artifacts",
    "low resolution", "signature", "out of frame", "extra limbs", "cropped", "oversaturated", "grainy",
)  # fmt: skip


UNCOUNTED = frozenset({
    "grapes", "purple grapes", "cherries", "red cherries", "bananas", "traffic lights", "cheese", "bread", "broccoli",
    "french fries", "fries", "chips", "popcorn", "sushi", "chocolate", "wine", "coffee", "hot coffee", "beer",
    "lightning", "scissors", "headphones", "glasses", "eyeglasses", "planet earth", "corn",
})  # fmt: skip


def _with_article(name: str) -> str:
    if name in UNCOUNTED:
        return name
    return ("an " if name[0] in "aeiou" and not name.startswith(("unicorn", "ufo")) else "a ") + name


def plain_prompt(item: Object) -> str:
    """The label with its article: what the evaluation asks for."""
    return _with_article(item.label)


def _filler(rng: np.random.Generator) -> str:
    """A word that says nothing about the object: a common one, or letters at random."""
    if rng.random() < 0.7:
        return FILLER_WORDS[int(rng.integers(len(FILLER_WORDS)))]
    return "".join(chr(int(c)) for c in rng.integers(ord("a"), ord("z") + 1, int(rng.integers(3, 8))))


def object_caption(item: Object, rng: np.random.Generator) -> str:
    """One of the many ways to ask for the object, now and then with words in it that it has no use for."""
    caption = _plain_object_caption(item, rng)
    if rng.random() < FILLER_SHARE:
        words = [_filler(rng) for _ in range(int(rng.integers(1, 4)))]
        caption = f"{caption}, {' '.join(words)}" if rng.random() < 0.6 else f"{' '.join(words)} {caption}"
    return caption


def _plain_object_caption(item: Object, rng: np.random.Generator) -> str:
    extra = EXTRA_PHRASES.get(item.label, ())
    if extra and rng.random() < 0.3:
        return extra[int(rng.integers(len(extra)))]
    # The label as often as all other names together: it is what the evaluation and most people say.
    name = item.label if rng.random() < 0.5 else item.names[int(rng.integers(len(item.names)))]
    phrase = OBJECT_PHRASES[int(rng.integers(len(OBJECT_PHRASES)))]
    return phrase.format(x=name, a=_with_article(name))


def background_caption(rng: np.random.Generator) -> str:
    """One of the ways to ask for nothing but the background; the guide's own two a third of the time."""
    if rng.random() < 0.34:
        return ("empty background, natural scene", "continuation of the scene, seamless")[int(rng.integers(2))]
    return BACKGROUND_CAPTIONS[int(rng.integers(len(BACKGROUND_CAPTIONS)))]


def no_caption(rng: np.random.Generator) -> str:
    """What stands for "no caption": half of the time nothing, else words of a usual negative prompt."""
    if rng.random() < 0.5:
        return ""
    return ", ".join(rng.choice(NEGATIVE_WORDS, int(rng.integers(1, 5)), replace=False))


def all_captions() -> list[str]:
    """Every caption that can be drawn, for learning the tokenizer's merges."""
    captions = [*BACKGROUND_CAPTIONS, *NEGATIVE_WORDS, *FILLER_WORDS]
    for item in OBJECTS:
        captions += EXTRA_PHRASES.get(item.label, ())
        for name in item.names:
            captions += [phrase.format(x=name, a=_with_article(name)) for phrase in OBJECT_PHRASES]
    return captions
