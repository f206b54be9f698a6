"""Small fables: animals that learn something about each other."""

from ..story import Story
from ..words import AUTUMN, PLAIN_LOOKS, SUMMER


_BIG_ONES = (
    (("dog", "dog", "dog", "horse", "cow"), ("in the garden", "in the meadow", "in the park")),
    (("bear", "elephant", "lion", "tiger", "hippo"), ("in the forest", "near the river", "at the waterhole")),
)


def big_and_small(s: Story) -> None:
    kinds, places = s.pick(_BIG_ONES)
    s.animal(kinds, looks=("big", "big", "big", "big {color}", "huge", "large {color}"), named=0.3)
    s.friend(role="small", kinds=("mouse", "kitten", "rabbit", "hamster", "hedgehog", "squirrel"), looks=PLAIN_LOOKS)
    s.friend(role="other", kinds=("cat", "fox", "goat", "hen", "lamb", "monkey"), looks=("{color}", "grumpy"), named=0)
    s.props(toy=s.toy(s.pick(("ball", "balloon", "hoop", "rope"))))
    has_toy = s.chance(0.6)
    s.open(
        "wanted to play with {toy.a}" if has_toy else "wanted to play with the other animals",
        place=s.pick(places),
        likes=(
            "{He} was strong, but {he} was very gentle.",
            "{He} had big feet, a big head and a big heart.",
            "{He} would not hurt a fly.",
            "{He} had a deep voice and kind eyes.",
            "{He} was bigger than all the other animals, and {he} was often alone.",
        ),
    )
    s.say(
        "But when the other animals saw {him}, they ran away.",
        "“Go away!” shouted {other.a}. “You're too big!”",
        "The other animals were afraid, because {he} was so big.",
    )
    s.maybe(
        "“I don't want to hurt anyone,” said {hero}, but nobody listened.",
        "{He} tried to make {himself} small, but that is hard for somebody so big.",
        "“Why is everyone afraid of me?” {he} asked. Nobody answered.",
    )
    s.sad()
    s.par()
    s.say(
        "Then {he} heard a tiny voice. “Help!” {small.A} had fallen into a deep hole.",
        "Suddenly, someone cried for help. {small.A} was stuck under a fallen branch.",
        "Just then, {small.a} got caught in a thorny bush and could not get out.",
    )
    s.maybe("All the others stood around, but they were too small to help.", "Nobody else was strong enough.")
    s.say(
        "“Don't be afraid,” said {hero}. {He} reached out carefully and lifted {small} to safety.",
        "{Hero} came slowly and spoke softly. In no time, {small} was free and safe.",
    )
    s.say(
        "“Thank you!” said {small}. “You're big, but you're very gentle.”",
        "“Oh!” said {small}. “You have a big heart, too. Thank you!”",
    )
    s.par()
    s.say(
        "“Would you like to play with me?” asked {hero}. “I would love to,” said {small}.",
        "“Now I have a friend,” said {hero}. “And what a friend!” said {small}.",
    )
    s.say(
        "{Small} climbed on {hero}'s back, and together they played with {toy.the}."
        if has_toy
        else "{Small} climbed on {hero}'s back, and together they [ran through the grass|played tag].",
        "They played until the sun went down, and {hero} was careful with every step.",
    )
    s.say(
        "When the others saw that, they came out one by one. “May we play, too?” they asked.",
        "After that, nobody was afraid of {hero} anymore.",
        "It doesn't matter how big your feet are. It matters how big your heart is.",
    )


# The home that is tried, and what is wrong with it.
_BAD_HOMES = (
    ("an empty bird's nest", "It swung in the wind, and {he} felt sick"),
    ("a hole under a root", "It was so wet that {his} feet got cold"),
    ("an old boot", "It smelled terrible"),
    ("a hollow pumpkin", "A goat came and ate the door"),
    ("a flowerpot", "It was so small that {he} could not turn around"),
    ("a cave behind the waterfall", "It was so loud that {he} could not sleep"),
    ("a mailbox", "All day long, letters fell on {his} head"),
    ("a birdbath", "Every bird in the garden wanted to wash there"),
)


def new_home(s: Story) -> None:
    s.animal(("mouse", "frog", "squirrel", "hedgehog", "mole", "hamster", "turtle", "rabbit"))
    s.friend(kinds=("rabbit", "mouse", "squirrel", "toad", "hen", "frog", "hedgehog"), named=0.4)
    (one, bad1), (two, bad2) = s.pick_some(_BAD_HOMES, 2)
    s.props(one=one, bad1=bad1, two=two, bad2=bad2)
    s.props(
        good=s.pick(
            ("a big teapot without a lid", "a hollow log", "a wooden box", "an old barrel", "a big, dry basket")
        )
    )
    s.open(
        "went out to find a new home",
        "set out to look for a home",
        "packed {his} bag and went to find a new home",
        when=AUTUMN,
        likes=(
            "A storm had blown {his} home away.",
            "{His} old home was too cold for the winter.",
            "{He} owned a spoon, a blanket and a picture of {his} grandma, but {he} had no home.",
            "Water had run into {his} home, and {he} could not live there anymore.",
        ),
    )
    s.say(
        "First, {he} tried {one}. {bad1}. “This is not for me,” said {hero}.",
        "{He} found {one} and moved in. {bad1}. So {he} moved out again.",
    )
    s.say(
        "Next, {he} tried {two}. {bad2}. “Not this one, either,” {he} said.",
        "Then {he} saw {two}. “How nice!” {he} thought. But it was not nice at all. {bad2}.",
    )
    s.maybe(
        "It was getting late, and the wind was cold.",
        "{Hero} walked and walked, and {his} feet began to hurt.",
        "{Hero} was so tired that {he} could hardly walk.",
    )
    s.par()
    s.say(
        "Then {he} saw a small light. Somebody lived in {good}! It was {friend.a}.",
        "At last, {he} came to {good}. “Is anybody in there?” {he} asked. Out looked {friend.a}.",
    )
    s.say(
        "“I'm looking for a home,” said {hero}. “But this one is yours, so I will go on.”",
        "“Excuse me,” said {hero}. “I didn't know that this place was taken.”",
    )
    s.say(
        "“Wait,” said {friend}. “It's big enough for two, and I'm often lonely.”",
        "“Come in and warm up,” said {friend}. “There is room for one more.”",
    )
    s.maybe(
        "Inside, it was dry and warm, and it smelled of soup.", "There was a soft bed, a small stove and a pot of tea."
    )
    s.par()
    s.say(
        "“It's just right,” said {hero}.",
        "{Hero} lay down and sighed with joy. It was not too small, not too wet and not too loud.",
    )
    s.say(
        "And the two of them lived there happily for many years.",
        "A house is only a house. A friend makes it a home.",
        "“Good night,” said {friend}. “Good night,” said {hero}. It was so good to have someone to say it to.",
    )


_VOICES = (
    ("frog", "Croak"),
    ("crow", "Caw"),
    ("duck", "Quack"),
    ("donkey", "Hee-haw"),
    ("goose", "Honk"),
    ("pig", "Oink"),
    ("owl", "Hoo"),
)
_ALARMS = (
    "a fox came toward the henhouse",
    "the river rose higher and higher",
    "a thick fog came, and nobody could find the way home",
    "sparks fell on the dry hay",
    "a hungry wolf crept up to the sheep",
)


def loud_voice(s: Story) -> None:
    kind, sound = s.pick(_VOICES)
    s.animal((kind,))
    s.friend(role="singer", kinds=("bird", "cat", "robin", "lamb", "hen"), looks=("{color}", "proud"), named=0)
    s.props(sound=sound, alarm=s.pick(_ALARMS))
    s.open(
        "wanted to sing",
        "wanted to sing with the others",
        "wanted to join the choir",
        place=s.pick(("at the pond", "on the farm", "in the meadow")),
        likes=(
            "{He} loved music more than anything.",
            "{He} hummed a tune from morning to night.",
            "{He} had a very loud voice.",
            "{He} was always cheerful, and {he} was always loud.",
        ),
    )
    s.say("“{sound}!” {he} sang as loudly as {he} could. “{sound}!”")
    s.say(
        "Everyone covered their ears. “Please stop,” said {singer.a}. “That's not singing.”",
        "“What an awful noise!” said {singer.a}. The others laughed.",
    )
    s.sad()
    s.say(
        "After that, {he} sang only at night, when nobody could hear {him}.",
        "{He} closed {his} mouth and did not make a sound for days.",
        "“I have an ugly voice,” said {hero}. “I will be quiet from now on.”",
    )
    s.par()
    s.say("But one evening, {alarm}.", "Then, one night, {alarm}.")
    s.say(
        "{Singer} tried to warn the others, but {singer.his} voice was too soft.",
        "All the others were asleep. Only {hero} was awake.",
    )
    s.say(
        "{Hero} took a deep breath. “{sound}! {sound}! {sound}!”",
        "There was only one thing to do. “{sound}!” shouted {hero}. “{sound}! {sound}!”",
    )
    s.say(
        "It was so loud that everyone woke up and came running. Just in time, they all got to a safe place.",
        "Everyone heard it, near and far. They followed the sound, and nobody was hurt.",
    )
    s.par()
    s.say(
        "“You saved us with your voice,” said {singer}. “I'm sorry that I laughed.”",
        "“What a wonderful voice you have!” said {singer}. “Please forgive me.”",
    )
    s.say(
        "The next day, they all sang together, some softly and one very loudly.",
        "From then on, {hero} sang every evening, and nobody covered their ears.",
        "A loud voice is a good thing when you use it at the right time.",
        "{Hero} was so proud that {he} sang all the way home.",
    )


_TREATS = (
    ("honey", "a swarm of bees", "the bees", "a hollow tree", "planted blue flowers in front of the tree"),
    ("cherries", "a flock of birds", "the birds", "a tall tree", "built a little house for the birds"),
    ("carrots", "a family of rabbits", "the rabbits", "a small field", "dug the whole field for the rabbits"),
    ("cheese", "a family of mice", "the mice", "a hole in the wall", "brought the mice a big bag of crumbs"),
    ("blueberries", "two old hedgehogs", "the hedgehogs", "a deep basket", "filled the basket with fresh berries"),
    ("nuts", "a family of squirrels", "the squirrels", "a hole in an oak", "gathered nuts for a whole week"),
)


def taken_food(s: Story) -> None:
    s.animal(("bear", "fox", "raccoon", "monkey", "dog", "panda", "donkey", "goat", "beaver"))
    food, family, owners, place, repair = s.pick(_TREATS)
    s.props(family=family, food=food, owners=owners, place=place, repair=repair)
    s.open(
        "smelled something sweet" if food in ("honey", "cherries", "blueberries") else "smelled something good",
        "was very hungry",
        "woke up with an empty belly",
        when=SUMMER,
    )
    s.say(
        "{He} followed {his} nose and came to {place}. It was full of {food}!",
        "After a while, {he} found some {food} in {place}."
        if food != "cherries"
        else "After a while, {he} found a tree full of {food}.",
    )
    s.say(
        "“{Food} for me!” said {hero}. {He} did not ask whose {food} it was."
        if food in ("honey", "cheese")
        else "“{Food} for me!” said {hero}. {He} did not ask whose {food} they were.",
        "There was nobody there to ask, so {he} began to eat.",
    )
    s.say("{He} ate and ate until nothing was left.", "Soon {his} belly was round, and everything was gone.")
    s.par()
    s.say(
        "Then {family} came home. “Who ate our {food}?” they cried.",
        "In the evening, {he} heard voices. It was {family}. “Who took our {food}?”",
    )
    s.maybe(
        "“We worked for it all summer,” said the smallest of them, and a tear ran down its face.",
        "Now their children would be hungry, too.",
    )
    s.say(
        "{Hero} hid behind a bush. {His} belly was full, but {his} heart was heavy.",
        "{Hero} heard every word. Suddenly, {he} felt sick.",
    )
    s.say(
        "At last, {he} came out. “It was me,” {he} said. “I took it without asking. I'm sorry.”",
        "{He} could have run away. But {he} walked up to them and said, “I did it, and I'm very sorry.”",
    )
    s.say("{Owners} were angry. “Sorry does not fill our bellies,” they said.", "For a long time, nobody said a word.")
    s.par()
    s.say("So {hero} {repair}. It was hard work.", "The next morning, {hero} got up early and {repair}.")
    s.say(
        "When {owners} saw that, they were not angry anymore.",
        "“That was good of you,” said {owners}. “We forgive you.”",
    )
    s.say(
        "“Next time, just ask,” they said. And the next time, {he} asked.",
        "From then on, {owners} always saved a little {food} for {hero}."
        if food in ("honey", "cheese")
        else "From then on, {owners} always saved a few {food} for {hero}.",
        "{Hero} learned that food tastes best when somebody gives it to you.",
    )


# Who boasts, of what, how that ends, and who can help because of being different.
_PROUD = (
    (
        ("deer", "pony", "horse", "rabbit", "fox"),
        "I'm the fastest animal in the land",
        "slipped on a wet stone and fell into a deep ditch",
        "mole",
        "I can't see well, but I can dig",
        "The mole dug a path to the bottom of the ditch, and {hero} could climb out",
    ),
    (
        ("parrot", "cat", "zebra", "fox"),
        "I'm the prettiest animal in the land",
        "looked at {himself} in the pond for so long that {he} fell in",
        "turtle",
        "I'm slow, but I can swim",
        "The turtle swam out to the middle, and {hero} held on to its shell",
    ),
    (
        ("bear", "lion", "tiger", "horse"),
        "I'm the strongest animal in the land",
        "pushed a big rock for fun, and it rolled onto {his} tail",
        "ant",
        "I'm small, but I have a hundred brothers and sisters",
        "A hundred ants pushed together, and the rock rolled away",
    ),
    (
        ("fox", "monkey", "raccoon"),
        "I'm the cleverest animal in the land",
        "put {his} {hero.hand} into a jar to get a nut and could not get it out again",
        "toad",
        "I'm not pretty, but I have good ideas",
        "The toad told {him} to let go of the nut. {Hero} did, and the {hero.hand} came out at once",
    ),
    (
        ("giraffe", "horse", "donkey"),
        "I'm the tallest animal in the land",
        "got {his} head stuck between two branches",
        "beetle",
        "I'm tiny, but my jaws are strong",
        "The beetle bit into the branch again and again until it broke",
    ),
)


def boaster(s: Story) -> None:
    kinds, boast, accident, humble, offer, help_ = s.pick(_PROUD)
    s.animal(kinds, looks=("young", "proud", "beautiful", "{color}", "proud young", "proud {color}"))
    s.props(boast=boast, accident=accident, humble=humble, offer=offer, help=help_)
    s.open(
        "met a {humble}",
        "saw a {humble} on the path",
        "walked past a {humble}",
        likes=(
            "{He} liked to look at {himself} in the water.",
            "{He} talked about {himself} all day long.",
            "{He} thought that nobody else was so special.",
            "{He} never listened to anyone.",
        ),
    )
    s.say("“{boast},” said {hero}. “And what can you do?”", "“Look at me!” said {hero}. “{boast}. What can you do?”")
    s.say(
        "“Not so much,” said the {humble}. “But I'm happy with what I am.”",
        "The {humble} smiled. “Everyone can do something,” it said.",
    )
    s.say(
        "{Hero} laughed. “How boring!” {he} said.",
        "But {hero} only laughed until {his} sides hurt.",
    )
    s.par()
    s.say(
        "Then {he} walked on with {his} nose in the air. But a little later, {he} {accident}.",
        "The next day, {hero} {accident}.",
    )
    s.say(
        "“Help! Help!” {he} cried. The others only walked by. “Help yourself, if you're so great,” they said.",
        "{He} shouted for help. But nobody came, because nobody liked a boaster.",
    )
    s.say(
        "Then {he} heard a small voice. It was the {humble}. “{offer},” it said.",
        "Only the {humble} stopped. “{offer},” it said. “Let me try.”",
    )
    s.say("{help}.")
    s.par()
    s.say(
        "“Why did you help me?” asked {hero}. “I laughed at you.” “Because you needed help,” said the {humble}.",
        "{Hero} was ashamed. “I was wrong about you,” {he} said. “Please forgive me.”",
    )
    s.say(
        "After that, {hero} talked less and listened more.",
        "Now {hero} told everyone that the {humble} was the kindest animal in the land.",
        "From that day on, the two of them were friends.",
        "{Hero} never boasted again, or almost never.",
    )
