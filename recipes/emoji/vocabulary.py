"""Vocabulary of the bundled models' captions: subjects, backgrounds, tints, templates."""

from __future__ import annotations

from glide_core.tokenizer import article

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (16, 16, 16),
    "red": (214, 48, 49),
    "orange": (243, 146, 55),
    "yellow": (250, 220, 80),
    "green": (74, 170, 96),
    "blue": (58, 110, 216),
    "purple": (128, 78, 190),
    "pink": (247, 168, 200),
    "gray": (150, 150, 150),
}
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
STYLES = ("3d", "flat")
PLACES = ("left", "right", "top", "bottom")

# emojibase labels used unchanged as names of subjects
_SAME = """
wolf|fox|raccoon|lion|leopard|moose|unicorn|zebra|deer|camel|giraffe|elephant|hamster|hedgehog|
bear|polar bear|koala|panda|sloth|otter|kangaroo|turkey|chicken|rooster|penguin|eagle|duck|swan|
owl|feather|flamingo|peacock|parrot|frog|crocodile|turtle|lizard|snake|sauropod|dolphin|seal|
fish|blowfish|shark|octopus|crab|lobster|shrimp|snail|butterfly|ant|spider|rose|
sunflower|tulip|palm tree|cactus|shamrock|maple leaf|mushroom|grapes|melon|watermelon|lemon|
banana|pineapple|mango|pear|peach|cherries|strawberry|blueberries|tomato|coconut|avocado|
eggplant|potato|carrot|hot pepper|bell pepper|broccoli|garlic|onion|peanuts|bread|croissant|
pretzel|bagel|pancakes|waffle|bacon|hamburger|french fries|pizza|hot dog|sandwich|taco|burrito|
egg|popcorn|spaghetti|sushi|doughnut|cookie|birthday cake|cupcake|pie|candy|lollipop|honey pot|
teapot|wine glass|bubble tea|volcano|mountain|house|hospital|castle|church|fountain|tent|
locomotive|bus|ambulance|fire engine|taxi|tractor|racing car|motorcycle|bicycle|skateboard|
anchor|sailboat|ship|airplane|helicopter|rocket|flying saucer|luggage|alarm clock|crescent moon|
ringed planet|star|cloud|tornado|rainbow|umbrella|snowflake|fire|droplet|balloon|
ribbon|trophy|volleyball|basketball|baseball|bowling|boxing glove|kite|crystal ball|magic wand|
teddy bear|artist palette|yarn|glasses|necktie|jeans|scarf|socks|dress|backpack|crown|top hat|
ring|bell|microphone|radio|saxophone|trumpet|accordion|guitar|violin|drum|battery|laptop|
television|camera|candle|light bulb|scroll|coin|money bag|pencil|paintbrush|scissors|key|hammer|
axe|bomb|boomerang|shield|magnet|ladder|microscope|door|mirror|bed|toilet|bathtub|basket|bucket|
toothbrush|robot|ghost|alien|skull|snowman
"""
# subjects with another name than their emojibase label
_RENAMED = {
    "dog": "dog face", "cat": "cat face", "tiger": "tiger face", "horse": "horse face",
    "cow": "cow face", "pig": "pig face", "mouse": "mouse face", "rabbit": "rabbit face",
    "dragon": "dragon face", "monkey": "monkey face", "chick": "baby chick",
    "whale": "spouting whale", "dinosaur": "T-Rex", "ladybug": "lady beetle",
    "shell": "spiral shell", "tree": "deciduous tree",
    "apple": "red apple", "green apple": "green apple", "corn": "ear of corn",
    "kiwi": "kiwi fruit", "cheese": "cheese wedge", "ice cream": "soft ice cream",
    "beer": "beer mug", "coffee": "hot beverage", "car": "automobile", "truck": "delivery truck",
    "train": "high-speed train", "moon": "full moon", "sun": "sun", "heart": "red heart",
    "soccer ball": "soccer ball", "gift": "wrapped gift", "clown": "clown face",
    "diamond": "gem stone", "book": "closed book", "christmas tree": "Christmas tree",
    "shirt": "t-shirt", "dice": "game die", "sword": "dagger", "phone": "mobile phone",
    "headphones": "headphone", "pumpkin": "jack-o-lantern", "bee": "honeybee",
}  # fmt: skip

# subject in a caption -> emojibase label
SUBJECTS: dict[str, str] = {
    **{label: label for label in _SAME.replace("\n", "").split("|")},
    **_RENAMED,
}

TEMPLATES = (
    "{subject} on {the} {background} background",
    "{subject} on {background}",
    "{subject}, {background} background",
    "a drawing of {subject} on {the} {background} background",
    "a picture of {subject} on {background}",
)


_NO_ARTICLE = (
    "glasses", "jeans", "socks", "fries", "grapes", "cherries", "pancakes", "scissors", "peanuts",
    "blueberries", "headphones", "popcorn", "bacon", "spaghetti", "sushi", "corn",
)  # fmt: skip


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun: "a fox", "an owl"; plurals stay unchanged."""
    if noun.split()[-1] in _NO_ARTICLE:
        return noun
    return f"{article(noun)} {noun}"


def fill(template: str, subject: str, background: str) -> str:
    """Fill one of `TEMPLATES`; subject includes its article and adjectives."""
    return template.format(subject=subject, the=article(background), background=background)


def held_out_background(subject: int, background: int) -> bool:
    """Whether this subject and background are held out: one background in ten."""
    return (7 * subject + 3 * background) % len(BACKGROUNDS) == 0


def held_out_tint(subject: int, tint: int) -> bool:
    """Whether this subject and tint are held out: one tint in seven."""
    return (5 * subject + 3 * tint) % len(TINTS) == 0


def held_out_style(subject: int) -> bool:
    """Whether this subject's flat style is held out: one subject in sixteen."""
    return subject % 16 == 5
