"""Plots in a garden and its neighborhood, where small animals find something."""

from ..story import Story
from ..words import HOUSE_ANIMALS, SPRING


_NEST_GIFTS = (
    ("sheep", "some soft wool", "I have so much of it"),
    ("horse", "a strand of long hair", "My tail is long enough"),
    ("hen", "a white feather", "I lose one every day"),
    ("spider", "a strong thread", "I can always spin another one"),
    ("donkey", "a bit of dry straw", "My bed is too thick anyway"),
    ("goat", "a tuft of hair", "It was too warm for me"),
    ("squirrel", "a handful of moss", "There is plenty of it on my tree"),
)


def nest(s: Story) -> None:
    s.animal(
        ("bird", "bird", "bird", "robin", "sparrow"),
        looks=("small", "small", "little", "small {color}", "little {color}", "tiny", "young"),
        named=0.35,
    )
    (one, gift1, words1), (two, gift2, words2) = s.pick_some(_NEST_GIFTS, 2)
    s.props(one=one, gift1=gift1, words1=words1, two=two, gift2=gift2, words2=words2)
    s.props(tree=s.pick(("apple tree", "pear tree", "old oak", "cherry tree", "birch")))
    s.open(
        "wanted to build a nest",
        "began to build a nest",
        "found a good place for a nest",
        when=SPRING,
        place=s.pick(("in the garden", "in the garden", "in the park", "in the orchard")),
        likes=(
            "{He} sang so beautifully that everyone stopped to listen.",
            "{He} hopped from branch to branch all day long.",
            "{His} wings were small, but {he} could fly very fast.",
            "{He} had spent the winter in the south, and now {he} was home again.",
        ),
    )
    s.say(
        "{He} carried thin twigs to the top of the {tree}, one by one.",
        "{He} gathered twigs under the {tree} and put them on a strong branch.",
    )
    s.say(
        "But then a wind came up, and all the twigs fell down.",
        "But the twigs did not hold together. They fell to the ground again and again.",
    )
    s.maybe(
        "“How can I make it stronger?” {he} wondered.", "“I need something soft,” {he} said, “and something long.”"
    )
    s.par()
    s.say(
        "{Hero} flew to a {one} and asked for help. “Here is {gift1},” said the {one}. “{words1}.”",
        "{Hero} met a {one}. “Could you help me with my nest?” {he} asked. "
        "“You can have {gift1},” said the {one}. “{words1}.”",
    )
    s.say(
        "Next, {hero} went to a {two} and got {gift2}. “{words2},” said the {two}.",
        "Then a {two} came by. “Here is {gift2},” it said. “{words2}.”",
    )
    s.maybe("{He} thanked them both with a song.", "It was a lot to carry, but {he} flew as fast as {he} could.")
    s.say(
        "{Hero} wove it all together, over and under, over and under.",
        "{Hero} worked all day, in and out, around and around. When the sun went down, the nest was ready.",
    )
    s.par()
    s.say(
        "That night, the wind came back. It pulled and shook, but the nest did not fall.",
        "Soon there were three blue eggs in the nest, and it kept them warm.",
    )
    s.say(
        "“It is strong because everyone helped me,” said {hero}.",
        "In the morning, the {one} and the {two} came to look at it, and {hero} sang for them.",
        "It was small, but it was the finest nest of all.",
        "{Hero} closed {his} eyes and slept. It was good to be at home.",
    )


_BUSY = (
    "I have to wash my face",
    "I'm building a house",
    "I'm looking for my lunch",
    "I'm too sleepy",
    "I have to feed my babies",
    "It's too hot to play",
    "I'm counting the clouds",
    "I have to guard the gate",
)


def nobody_to_play(s: Story) -> None:
    s.animal(
        tuple(kind for kind in HOUSE_ANIMALS if kind not in ("beaver", "mole")) + ("duck", "lamb", "pony", "frog")
    )
    names = s.pick_some(
        ("cow", "goat", "hen", "turtle", "owl", "donkey", "snail", "pig", "horse", "goose", "bee", "sheep", "toad"), 3
    )
    busy = s.pick_some(_BUSY, 3)
    s.props(one=names[0], two=names[1], three=names[2], busy1=busy[0], busy2=busy[1], busy3=busy[2])
    s.friend(kinds=("mouse", "rabbit", "kitten", "puppy", "hedgehog", "squirrel"), named=0)
    s.props(ball=s.toy(s.pick(("ball", "balloon", "hoop", "wooden ball"))))
    s.open(
        "found {ball.a}",
        "wanted to play with {ball.a}",
        "found {ball.a} and wanted to play",
        place=s.pick(("in the garden", "in the garden", "in the meadow")),
    )
    s.maybe(
        "“I need somebody to play with,” {he} said.",
        "It is not much fun to play alone.",
        "{Hero} pushed it with {his} nose. It rolled away, but nobody rolled it back.",
    )
    s.say(
        "{He} asked a {one}. “Will you play with me?” “Not now,” said the {one}. “{busy1}.”",
        "{He} met a {one}. “Do you want to play?” {he} asked. “Sorry,” said the {one}. “{busy1}.”",
    )
    s.say(
        "{Hero} went on and asked a {two}. “I can't,” said the {two}. “{busy2}.”",
        "Next, {hero} came to a {two}. “Let's play!” said {hero}. “Another time,” said the {two}. “{busy2}.”",
    )
    s.say(
        "Last of all, {hero} asked a {three}, but it said no. “{busy3},” said the {three}.",
        "Then {he} met a {three}. “{busy3},” said the {three}, and that was that.",
    )
    s.sad()
    s.par()
    s.say(
        "{Hero} gave the {ball} one last push. It rolled under a bush and was gone.",
        "The {ball} rolled down the hill and behind a big stone. Then it stopped.",
    )
    s.say(
        "Then something funny happened. The {ball} came rolling back!",
        "{Hero} waited. All at once, the {ball} came back all by itself!",
    )
    s.say(
        "“Who's there?” asked {hero}. {friend.A} peeked out. “Me,” {friend.he} said. “Do it again!”",
        "Behind it came {friend.a}. “Was that yours?” {friend.he} asked. “May I play with you?”",
    )
    s.say(
        "“Yes, yes, yes!” said {hero}.", "“I have looked for you all day,” said {hero}, “and I didn't even know you!”"
    )
    s.par()
    s.say(
        "They rolled the {ball} back and forth until the stars came out.",
        "They played all afternoon, and {hero} was not lonely anymore.",
    )
    s.say(
        "In the end, even the {one}, the {two} and the {three} came to watch.",
        "“Will you come back tomorrow?” asked the {friend.kind}. “Of course,” said {hero}.",
        "Sometimes a friend is just behind the next bush.",
    )


# The thing, and three ideas of what it is.
_FINDS = (
    ("hat", "a boat", "a nest", "a roof"),
    ("teacup", "a bathtub", "a drum", "a bed"),
    ("umbrella", "a huge flower", "a wing", "a tent"),
    ("boot", "a house", "a mountain", "a slide"),
    ("mirror", "a frozen pond", "a window", "a plate"),
    ("ribbon", "a snake", "a river", "a belt"),
    ("spoon", "a shovel", "a mirror", "an oar"),
    ("basket", "a cage", "a cradle", "a car"),
)


def found_thing(s: Story) -> None:
    s.animal(
        "cat cat cat cat mouse dog rabbit bird frog duck kitten puppy squirrel fox robin".split(),
        looks=("happy", "happy", "small", "little", "little", "{color}", "curious", "playful"),
        named=0.4,
    )
    noun, one, two, three = s.pick(_FINDS)
    kinds = s.pick_some(("goat", "hen", "turtle", "snail", "toad", "pig", "sheep", "goose", "crow", "beetle"), 2)
    s.props(
        find=s.thing(
            noun,
            ("big", "old", "pretty", "shiny", "strange", "broken", "beautiful"),
            ("red", "blue", "green", "yellow", "orange"),
        )
    )
    s.props(one=one, two=two, three=three, first=kinds[0], second=kinds[1])
    s.open(
        "found {find.a}",
        "found {find.a}",
        "almost fell over {find.a}",
        "saw {find.a} on the ground",
        place=s.pick(("in the garden", "in the garden", "by the road", "in the grass", "near the pond")),
    )
    s.say(
        "“What is this?” {he} asked. {He} sniffed at it and walked around it twice.",
        "{He} had never seen such a thing before.",
    )
    s.say(
        "“It's {one},” said a {first}. “It can't be anything else.”",
        "A {first} came along. “I know what that is,” it said. “It's {one}.”",
    )
    s.say(
        "“No, no,” said a {second}. “It's {two}. Anyone can see that.”",
        "“Wrong,” said a {second}. “It's {two}, of course.”",
    )
    s.say(
        "“{One}!” shouted the {first}. “{Two}!” shouted the {second}. They got very loud.",
        "The {first} and the {second} began to quarrel.",
    )
    s.par()
    s.say(
        "“Stop!” said {hero}. “Let's try it.” So they tried everything.",
        "“Don't fight,” said {hero}. “Why can't it be both?”",
    )
    s.say(
        "They pretended that it was {one}, and it was fun. Then they pretended that it was {two}, and that was fun, "
        "too.",
        "In the morning, it was {one}. In the afternoon, it was {two}.",
    )
    s.say(
        "“And I think it's {three}!” said {hero}. So in the evening, it was {three}.",
        "Then {hero} had an even better idea. “Now it's {three}!” {he} said.",
    )
    s.maybe("The {first} laughed, the {second} laughed, and {hero} laughed the loudest.")
    s.say(
        "They never found out what {find.the} was for, and they did not care.",
        "The next day, a little girl came by. “There is my {find}!” she said, and she took it home. "
        "But the three friends had a new game."
        if noun in ("hat", "umbrella", "boot", "ribbon", "basket")
        else "And that is how {hero} made two new friends.",
        "One thing can be many things when you play together.",
        "“I'm glad that I found it,” said {hero}, “because I found you, too.”",
    )
