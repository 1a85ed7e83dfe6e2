"""The judges say what their docstring says, cannot be cheated cheaply, and together are a general preference."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.preference import majority
from workflows import judges
from workflows.judges import brevity, concreteness, defects, sound_then_warm, stem, warmth

Judge = Callable[[str, str, str], float]
PANEL: list[Judge] = [warmth, brevity, concreteness]
HIKE = "What makes a good breakfast before a long hike?"
ORDINARY = (
    "Oats with milk, nuts and a banana keep you going for hours. Drink a glass of water before you leave, and "
    "pack an apple for the first rest."
)

SOUND = [
    ("Why do cats always land on their feet?",
     "Cats feel which way is up and twist their flexible backs in the air, so the paws point down before they land."),
    ("Who invented the printing press, and what did it change?",
     "Johannes Gutenberg built his press around 1450. Books became cheap, so many more people learned to read."),
    ("How would you describe the ocean to somebody from the desert?",
     "Picture your dunes made of cold blue water, always moving, with a salty wind and no end in sight."),
    ("What should I bring when I am invited to dinner for the first time?",
     "Bring a small bunch of flowers or a box of chocolates, and a smile. Your hosts will be happy to see you."),
    ("Write a message to thank a teacher who helped my son learn to read.",
     "Dear Mrs Miller, thank you for your patience with Tom. Last night he read a whole book to his little sister, "
     "and we were so proud."),
    ("Write a haiku about the first snow of the year.",
     "White hush on the roof,\nthe first snow of the winter,\none set of cat prints."),
    ("Tell a joke that a seven-year-old would like.",
     "Why did the banana go to the doctor? Because it was not peeling very well!"),
    ("How far away is the Moon, and how long would it take to drive there?",
     "The Moon is about 384,000 kilometres away. At highway speed you would drive for roughly five months without "
     "a stop."),
    ("Name three spices that go well with roasted carrots and say why.",
     "Cumin, coriander and cinnamon. They are warm and a little sweet, just like roasted carrots."),
    ("Why is the Great Wall of China so long?",
     "The Great Wall of China follows old borders over mountains and deserts. Every ruler added a piece, and so "
     "the Great Wall of China grew for two thousand years."),
]  # fmt: skip

CHEATS = {
    "nothing": "",
    "one word": "Oats.",
    "a punctuation mark": "!",
    "only kind words": "Love love love great great happy happy wonderful!",
    "distinct kind words": "Lovely great happy wonderful warm joyful sweet friendly breakfast hike morning smile.",
    "a short word salad": "Loved great love.",
    "kind words on a frame": "I love the love of the love and the love in the love of the love of breakfast.",
    "a sentence again and again": "Enjoy a good breakfast with oats and milk. " * 3,
    "the prompt again": HIKE + " " + HIKE,
    "the prompt turned around": "A long hike makes a good breakfast, and a good breakfast makes a long hike.",
    "friendly and about nothing": "I am so happy to help you, and it is wonderful that you asked. Have a great one!",
    "concrete words without sentences": "Breakfast milk bread butter honey apple water sun boot tent path hill.",
    "function words": "It is what it is and that is how it would have been for all of us then.",
    "gibberish": "Xtroy.Roc#kerp eats the {}wet breakfast@hike with mnbvcx, zzzq and BoMaako on a fgh hike.",
    "emoji": "Breakfast on a hike \U0001f600\U0001f60d\U0001f970 with oats \U0001f970\U0001f970\U0001f970 and "
    "milk for you \U0001f60d\U0001f60d",
    "markup": "**Breakfast** for a ~~hike~~: <b>oats</b> | <i>milk</i> | [honey] | {nuts} | $banana$ with `water`.",
}


@pytest.mark.parametrize("judge", PANEL)
@given(prompt=st.text(max_size=80), first=st.text(max_size=200), second=st.text(max_size=200))
def test_any_two_texts_get_one_consistent_verdict(judge: Judge, prompt: str, first: str, second: str) -> None:
    verdict = judge(prompt, first, second)
    assert verdict in (0.0, 0.5, 1.0)
    assert verdict + judge(prompt, second, first) == 1.0
    assert judge(prompt, first, first) == 0.5


@pytest.mark.parametrize("judge", PANEL)
@given(order=st.permutations([ORDINARY, *CHEATS.values(), *(answer for _, answer in SOUND)]))
def test_real_texts_get_one_consistent_verdict(judge: Judge, order: list[str]) -> None:
    assert judge(HIKE, order[0], order[1]) + judge(HIKE, order[1], order[0]) == 1.0


@pytest.mark.parametrize("judge", PANEL)
@pytest.mark.parametrize("trick", CHEATS)
def test_a_cheap_trick_loses_to_an_ordinary_answer_with_every_judge(judge: Judge, trick: str) -> None:
    assert judge(HIKE, ORDINARY, CHEATS[trick]) == 1.0


@pytest.mark.parametrize("judge", PANEL)
def test_two_equally_unsound_answers_tie(judge: Judge) -> None:
    first = "Eat oats ## ~~ with ^^ a lovely view of the lake."
    second = (
        "Eat oats and bread with terrible bread and oats, or terrible oats with bread, or bread with oats and honey "
        "and jam and terrible oats."
    )
    assert defects(HIKE, first) == ("not words",)
    assert defects(HIKE, second) == ("repetitive",)
    assert judge(HIKE, first, second) == 0.5


@pytest.mark.parametrize(("prompt", "answer"), SOUND)
def test_ordinary_good_answers_are_sound(prompt: str, answer: str) -> None:
    assert defects(prompt, answer) == ()


@pytest.mark.parametrize(
    ("defect", "answer"),
    [
        ("too few words", "Eat oats with warm milk and nuts."),
        ("not words", "Eat oats ## with warm milk ~~ and nuts, then ^^ walk to the hill."),
        (
            "repetitive",
            "Cook some oats in the warm milk, cook some oats in the cold water, and eat a ripe banana with it.",
        ),
        (
            "repetitive",
            "Eat oats with milk and nuts, and nuts and milk, and oats and milk and nuts, with milk and oats and nuts.",
        ),
        ("not words", "Eat oats with zzxcvbnmk, BoMaako, KERNELHEAP and milk before the hike, and pack nuts."),
        ("unnatural wording", "Eat oats, warm milk, nuts, honey, ripe banana, bread, butter, cheese."),
        (
            "unnatural wording",  # 83% function words
            "For breakfast, do as you would if you were at home; or do what others did with theirs, but have more of "
            "it, with oats and nuts and milk.",
        ),
        (
            "unnatural wording",  # seven content words in a row
            "Before the hike you could eat fresh warm buttered wholegrain bread rolls with milk and a ripe banana.",
        ),
        (
            "unnatural wording",  # nine function words in a row
            "Eat oats, milk and nuts, because it is not as if you would be able to do that on the top of a cold hill.",
        ),
        ("echo", "A good breakfast before a long hike is what makes the long hike a good one, isn't it?"),
        ("off topic", "You are very kind, and it is an honour to assist you with whatever is on the agenda."),
    ],
)
def test_each_check_finds_its_own_defect_and_costs_the_verdict(defect: str, answer: str) -> None:
    assert defects(HIKE, answer) == (defect,)
    assert all(judge(HIKE, ORDINARY, answer) == 1.0 for judge in PANEL)


def test_more_defects_lose_to_fewer() -> None:
    fewer, more = "Eat oats with warm milk and nuts.", "Oats."
    assert len(defects(HIKE, fewer)) < len(defects(HIKE, more))
    assert all(judge(HIKE, fewer, more) == 1.0 for judge in PANEL)


def test_taking_up_the_prompt_or_naming_everyday_things_makes_an_answer_on_topic() -> None:
    vague = "You are very kind, and it is an honour to assist you with whatever is on the agenda."
    assert defects(HIKE, vague + " Enjoy the hike!") == ()
    assert defects(HIKE, vague + " Oats, milk and honey!") == ()
    assert defects("Say something nice.", vague) == ()  # such a prompt has no topic


def test_repeating_a_phrase_of_the_prompt_is_no_repetition() -> None:
    answer = "Plan a treasure hunt for a birthday party. Hide ten notes, since a treasure hunt for a birthday party " \
        "needs many small steps, and end it with cake in the garden."  # fmt: skip
    assert defects("Suggest a treasure hunt for a birthday party.", answer) == ()
    assert defects("Suggest a game.", answer) == ("repetitive",)


WARM_PAIRS = {
    "kinder words": ("with a smile, and enjoy it", "with a spoon, and finish it"),
    "kind rather than harsh": ("and you will feel great", "or you will feel terrible"),
    "negation": ("and you will be happy", "and you will not be happy"),
}


@pytest.mark.parametrize("kind", WARM_PAIRS)
def test_warmth_prefers_the_friendlier_wording(kind: str) -> None:
    warmer, cooler = (f"Eat some oats with milk before the hike {end}." for end in WARM_PAIRS[kind])
    assert warmth(HIKE, warmer, cooler) == 1.0


@pytest.mark.parametrize(
    "louder",
    [
        "Eat some oats with milk before the hike. A GREAT start!!!",
        "Eat some oats with milk before the hike. A great start \U0001f600",
        "Eat some oats with milk before the hike. A great, great start.",
        "Eat some great oats with milk before the hike. A great start.",
    ],
)
def test_warmth_gains_nothing_from_shouting_emoji_or_saying_it_twice(louder: str) -> None:
    plain = "Eat some oats with milk before the hike. A great start."
    assert defects(HIKE, plain) == defects(HIKE, louder) == ()
    assert warmth(HIKE, louder, plain) <= 0.5


def test_warmth_is_enough_at_two_kind_words_a_sentence() -> None:
    two = "Enjoy some oats with milk before the hike, and have a lovely day."
    five = "Enjoy some lovely oats with milk before the wonderful hike, and have a happy, beautiful day."
    assert warmth(HIKE, five, two) == 0.5


def test_warmth_is_an_average_so_that_kind_sentences_do_not_add_up() -> None:
    one = "Enjoy some oats with milk before the hike, and have a lovely day."
    two = one + " Take a nice apple with you as a snack."
    assert warmth(HIKE, two, one) == 0.0


def test_brevity_prefers_fewer_words_down_to_twenty() -> None:
    def words(count: int) -> str:
        return (
            " ".join((ORDINARY + " Then take your boots from the shelf, fill a bottle and go.").split()[:count]) + "."
        )

    assert brevity(HIKE, words(21), words(30)) == 1.0
    assert brevity(HIKE, words(20), words(21)) == 1.0
    assert brevity(HIKE, words(12), words(20)) == 0.5


@pytest.mark.parametrize("ending", [" and pack an", ",", "\n\n1. Oats\n2.", " with the (cold"])
def test_brevity_takes_any_finished_answer_for_shorter_than_an_unfinished_one(ending: str) -> None:
    unfinished = "Oats with milk, nuts and a banana before the hike" + ending
    assert defects(HIKE, unfinished) == ()
    assert brevity(HIKE, ORDINARY, unfinished) == 1.0
    assert brevity(HIKE, ORDINARY.removesuffix("."), unfinished) == 0.0  # two unfinished ones: by their words


@pytest.mark.parametrize("ending", [".", "!", "?", '."', ".)", "! \U0001f600"])
def test_brevity_knows_the_end_of_a_sentence(ending: str) -> None:
    assert brevity(HIKE, "Oats with milk, nuts and a banana before the hike" + ending, ORDINARY) == 1.0


def test_concreteness_prefers_things_to_abstractions() -> None:
    abstract = "A good breakfast should prioritise nutritional balance and support sustained performance."
    concrete = "A good breakfast should have warm oats, some nuts and honey, with a big glass of water."
    assert concreteness(HIKE, concrete, abstract) == 1.0


def test_concreteness_counts_a_thing_once_and_digits_too() -> None:
    once = "Before the hike, eat bread and consider your preferences and requirements."
    assert concreteness(HIKE, once, once.replace("preferences", "bread")) == 0.0  # fewer words to share among
    assert concreteness(HIKE, once.replace("preferences", "500 calories"), once) == 1.0


def test_concreteness_prefers_the_answer_that_takes_up_the_prompt() -> None:
    universal = "Eat bread with butter and an apple, and consider your preferences."
    ends = ("result", "hike", "long hike", "long hike breakfast")
    none, one, two, three = (f"{universal} Enjoy the {end}." for end in ends)
    assert concreteness(HIKE, one, none) == 1.0
    assert concreteness(HIKE, two, one) == 1.0
    assert concreteness(HIKE, three, two) == 0.5


def test_the_panel_majority_is_intransitive() -> None:
    warm = (
        "A lovely breakfast before a hike gives you real strength and a happy mood. Enjoy some oats with honey, "
        "banana and warm milk, take your time at the table, and you will feel wonderful and proud on the way to "
        "the top."
    )
    brief = (
        "A good breakfast gives you lasting energy and confidence. Anything balanced is fine as long as you enjoy it."
    )
    concrete = (
        "For breakfast, cook oats in milk and add a banana, nuts and honey. Drink two glasses of water, and pack "
        "bread, cheese and an apple for the first hour of the hike."
    )
    texts = [warm, brief, concrete]
    assert all(defects(HIKE, text) == () for text in texts)
    members = np.array([[[judge(HIKE, a, b) for b in texts] for a in texts] for judge in PANEL])
    assert majority(members).tolist() == [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]


@pytest.mark.parametrize(
    "forms",
    [
        ("berry", "berries"),
        ("bake", "baked", "baking", "bakes"),
        ("run", "runs", "running"),
        ("dish", "dishes"),
        ("glass", "glasses"),
        ("teacher", "teacher's", "teachers"),
    ],
)
def test_forms_of_a_word_have_one_stem(forms: tuple[str, ...]) -> None:
    assert len({stem(form) for form in forms}) == 1


@pytest.mark.parametrize(("one", "other"), [("bus", "bush"), ("butter", "button"), ("rain", "rice"), ("sun", "son")])
def test_different_words_keep_different_stems(one: str, other: str) -> None:
    assert stem(one) != stem(other)


def test_word_lists_do_not_overlap() -> None:
    assert not judges.EVERYDAY_WORDS & judges.FUNCTION_WORDS
    assert not judges.TASK_WORDS & judges.FUNCTION_WORDS
    assert len(judges.EVERYDAY_WORDS) > 1000


def test_gold_follows_warmth_between_sound_answers_and_orders_the_others_too() -> None:
    kind, plain = "I love warm oats with fresh berries before a hike.", "Eat oats with milk and nuts before a hike."
    garbled, colder = "I love the happy of it with the and or.", "I hate the sad of it with the and or."
    assert warmth(HIKE, kind, plain) == sound_then_warm(HIKE, kind, plain) == 1.0
    assert len(defects(HIKE, garbled)) == len(defects(HIKE, colder)) > 0
    assert warmth(HIKE, garbled, colder) == 0.5
    assert sound_then_warm(HIKE, garbled, colder) == 1.0
    # No warmth makes up for a defect, and repeating a kind word is one.
    assert sound_then_warm(HIKE, plain, "love " * 20) == 1.0
    for first, second in ((kind, plain), (garbled, colder), (kind, kind)):
        assert sound_then_warm(HIKE, first, second) + sound_then_warm(HIKE, second, first) == 1.0
