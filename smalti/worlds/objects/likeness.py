"""Which nouns may not stand in one image, because a viewer could read one thing as the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from smalti.worlds.objects.archive import Sprite

# Groups of nouns that look alike or are kinds of one thing, beside those that share their last word.
_GROUPS = (
    "car|taxi|police car|off-road car|race car|van|minibus|pickup truck|sedan|suv|ambulance|auto rickshaw",
    "truck|semi truck|fire engine|pickup truck|van|delivery truck",
    "bus|trolleybus|minibus|tram|van",
    "train|bullet train|subway train|steam locomotive|locomotive|tram|monorail|mountain railway|railway car|light rail",
    "boat|ship|canoe|speedboat|motorboat|ferry|sailboat|cruise ship|rowboat",
    "airplane|small airplane|jet|biplane",
    "motorcycle|motor scooter|kick scooter|scooter|bicycle|moped",
    "mouse|rat|hamster|chipmunk",
    "cow|ox|water buffalo|bison|bull",
    "goat|ram|sheep|ewe",
    "dog|poodle|wolf|fox|bulldog|beagle",
    "cat|tiger|leopard|lion",
    "chicken|rooster|chick|turkey|hen",
    "horse|donkey|zebra|unicorn",
    "monkey|gorilla|orangutan",
    "crocodile|lizard|turtle",
    "whale|dolphin|orca|shark",
    "fish|tropical fish|pufferfish|carp streamer",
    "bee|fly|mosquito|beetle|ladybug|ant|cricket|cockroach",
    "house|hut|derelict house|hotel|bank|school|hospital|post office|department store|office building",
    "temple|Hindu temple|Greek temple|church|mosque|synagogue|castle|pagoda",
    "couch|sofa|armchair|chair|seat|bench|stool|lounge",
    "table|desk|coffee table|dining table|nightstand",
    "television|desktop computer|laptop|monitor|computer|screen",
    "telephone|telephone receiver|mobile phone|pager|phone",
    "cup|mug|teacup|coffee|tea|beer mugs|beer|milk|glass|tumbler",
    "bottle|wine|champagne|lotion bottle|baby bottle|sake",
    "bowl|salad|noodles|curry|rice|stew|fondue|soup|pot|pan|frying pan",
    "plate|cutlery|fork|knife|spoon",
    "book|open book|notebook|ledger|diary|magazine",
    "paper|memo|receipt|scroll|newspaper|calendar|notepad|clipboard|document",
    "clock|alarm clock|kitchen timer|stopwatch|wristwatch|mantelpiece clock|watch",
    "bag|handbag|clutch bag|purse|backpack|briefcase|suitcase|shopping bags",
    "shoe|sneaker|running shoe|dress shoe|flat shoe|hiking boot|boot|high-heeled shoe|sandal|flip-flop|ice skate",
    "hat|top hat|sun hat|cap|hard hat|military helmet|helmet|crown",
    "guitar|violin|banjo|cello|bass guitar",
    "ball|basketball|soccer ball|baseball|softball|volleyball|rugby ball|American football|billiard ball|football"
    "|tennis ball",
    "sun|cloudy sun|star|shooting star|glowing star",
    "moon|half moon|crescent moon|planet|globe",
    "circle|disc|square|ring",
    "apple|tomato|cherry|peach|orange|tangerine|lemon|lime|mango|pear",
    "tree|fir tree|palm tree|bare tree|Christmas tree|tanabata tree|plant|potted plant",
    "flower|rose|tulip|sunflower|hibiscus|cherry blossom|bouquet|hyacinth|lotus|daisy",
    "refrigerator|washing machine|oven|microwave|stove|dishwasher|freezer|cupboard|cabinet|wardrobe|file cabinet",
    "sink|toilet|bathtub|bidet|washbasin|urinal",
    "lamp|street lamp|lantern|light bulb|spotlight|floor lamp",
    "banknote|money bag|coin|credit card",
    "padlock|key|old key",
    "loudspeaker|megaphone|horn speaker|speaker",
    "envelope|love letter|red envelope|inbox tray|outbox tray|mailbox|postbox",
)


class Likeness:
    """Pairs of classes that may not stand in one image.

    Two classes are alike if one is a kind of the other, or if their last words are equal. They are also alike if one
    has all words of the other, or if both are in one group of things that look alike.

    Example:
        >>> animals = [Sprite("a/dog", "dog", "dog", "a", ("animal",)), Sprite("a/owl", "owl", "owl", "a", ("bird",))]
        >>> likeness = Likeness(animals)
        >>> likeness.alike("owl", "bird"), likeness.alike("dog", "hot dog"), likeness.alike("dog", "owl")
        (True, True, False)
    """

    def __init__(self, sprites: Iterable[Sprite]) -> None:
        self._kinds: defaultdict[str, set[str]] = defaultdict(set)
        for sprite in sprites:
            self._kinds[sprite.noun or sprite.name].update(sprite.hypernyms)
        self._groups: defaultdict[str, set[int]] = defaultdict(set)
        for number, group in enumerate(_GROUPS):
            for noun in group.split("|"):
                self._groups[noun].add(number)

    def alike(self, first: str, second: str) -> bool:
        """Tell whether a viewer could read one class as the other."""
        return (
            second in self._kinds.get(first, ())
            or first in self._kinds.get(second, ())
            or bool(self._groups.get(first, set()) & self._groups.get(second, set()))
            or _share_words(_stems(first), _stems(second))
        )

    def is_kind(self, noun: str, kind: str) -> bool:
        """Tell whether a class is of a kind, such as "animal"."""
        return kind in self._kinds.get(noun, ())


def _stems(noun: str) -> list[str]:
    return [word.removesuffix("s") for word in noun.lower().replace("-", " ").split(" ")]


def _share_words(first: list[str], second: list[str]) -> bool:
    return first[-1] == second[-1] or set(first) <= set(second) or set(second) <= set(first)
