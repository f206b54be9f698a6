"""Plots in a garden and its neighborhood, where small animals find something."""

from ..grammar import Thing
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


# What is followed, who is at the other end, what is wrong there, and how it ends.
_TRAILS = (
    (
        "yarn",
        "an old woman with two knitting needles",
        "“My ball of yarn has run away,” she said. “Now I can't finish my scarf.”",
        "went back, picked up the yarn and brought it to her",
        "The old woman knitted a tiny scarf for {hero}, too",
    ),
    (
        "string",
        "a little boy who was looking at a bush",
        "“My kite is in there,” he said, “but there are too many thorns.”",
        "crawled under the thorns and bit the kite free",
        "Soon the kite was up in the sky again, and the boy laughed",
    ),
    (
        "ribbon",
        "a lamb with a bell around its neck",
        "The ribbon was caught in a fence, and the lamb could not get away.",
        "pulled and bit until the lamb was free",
        "The lamb jumped for joy, and its bell went ding, ding, ding",
    ),
    (
        "rope",
        "a small boat with a mouse in it",
        "“Help!” cried the mouse. “The river is carrying me away!”",
        "took the rope between {his} teeth and pulled the boat to the shore",
        "The mouse jumped out and danced on the dry sand",
    ),
)
_WAYS = (
    "past the well",
    "under the gate",
    "around the old tree",
    "through the hedge",
    "behind the shed",
    "down the hill",
)


def trail(s: Story) -> None:
    s.animal(
        ("cat", "cat", "kitten", "dog", "puppy"),
        looks=("happy", "happy", "happy", "little", "small", "curious", "{color}", "friendly"),
        named=0.3,
    )
    noun, who, problem, help_, thanks = s.pick(_TRAILS)
    ways = s.pick_some(_WAYS, 3)
    color = s.pick(("red", "blue", "green", "yellow", "white"))
    thread = Thing(noun, color, "mass") if noun == "yarn" else Thing(noun, f"long {color}")
    s.props(thread=thread, who=who, problem=problem, help=help_, thanks=thanks)
    s.props(one=ways[0], two=ways[1], three=ways[2])
    s.open(
        "found {thread.a}",
        "saw {thread.a} on the ground",
        "wanted to play with {thread.a}",
        place=s.pick(("in the garden", "in the grass", "by the road", "in the yard")),
    )
    s.say(
        "{He} pulled at it, but it was very long. “Where does it end?” {he} wondered.",
        "{He} could not see where it ended, and {he} was very curious.",
    )
    s.say(
        "{He} followed it {one}, {two} and {three}.",
        "It went {one}, and {hero} went {one}, too. Then it went {two}. Last of all, it went {three}.",
    )
    s.maybe(
        "Once it got wrapped around {his} leg, and {he} had to turn in circles.",
        "A bird laughed at {him}, but {he} did not care.",
        "{He} had never been so far from home.",
    )
    s.par()
    s.say(
        "At the other end, {he} found {who}. {problem}",
        "And what was at the other end? It was {who}. {problem}",
    )
    s.say("{Hero} knew what to do. {He} {help}.", "“I can help,” thought {hero}, and {he} {help}.")
    s.say("{thanks}.")
    s.par()
    s.maybe("It was getting late, and {hero} was hungry.", "{Hero} was tired, but {he} was proud.")
    s.say(
        "{Hero} ran home with a story to tell.",
        "From then on, {hero} wanted to know where everything ended.",
        "At one end of {thread.the} there was a {hero.kind}, and at the other end there was a friend.",
        "That night, {hero} dreamed of {thread.the}, and it went on and on and on.",
    )


def egg(s: Story) -> None:
    s.animal(("rabbit", "dog", "mouse", "hedgehog", "cat", "pig", "turtle", "elephant", "squirrel", "frog", "bear"))
    s.props(
        look=s.pick(("blue", "white", "spotted", "big brown", "small gray", "pale green")),
        mother=s.pick(("goose", "duck", "swan")),
    )
    s.open("found a {look} egg", "saw a {look} egg in the grass", "almost stepped on a {look} egg", when=SPRING)
    s.say("It was all alone, and it was cold.", "There was no nest, and there was no mother.")
    s.maybe(
        "“Whose egg is this?” {he} asked everyone, but nobody knew.",
        "{He} asked a crow, and {he} asked an owl. “It's not mine,” they said.",
    )
    s.say(
        "So {hero} wrapped it in [leaves|soft grass|moss] and kept it warm.",
        "“Then I will take care of you,” said {hero}, and {he} put it into a warm nest of moss.",
    )
    s.maybe(
        "{He} stayed with it day and night. When it rained, {he} held a big leaf over it.",
        "{He} talked to it every day. “Hello in there,” {he} said. “It's nice out here.”",
    )
    s.par()
    s.say(
        "One morning, there was a small sound. Tick, tick, crack!",
        "Then the egg began to shake. A crack ran across the shell.",
    )
    s.say(
        "Out came a wet little head. “Mama!” said the baby bird.",
        "A tiny bird looked at {hero} and said, “Peep! Are you my mama?”",
    )
    s.say("“I'm not your mama,” said {hero}, “but I'm your friend.”", "{Hero} laughed. “Do I look like a bird?”")
    s.maybe(
        "{He} showed the little one the grass, the sun and the sky.",
        "The little one followed {him} everywhere, one step behind.",
    )
    s.par()
    s.say(
        "A few days later, a {mother} came by, calling and looking under every bush.",
        "Then, one day, they met a {mother} at the pond. She looked very sad.",
    )
    s.say(
        "“A storm carried my egg away,” she said. “I have looked for it for weeks.”",
        "“Have you seen an egg?” she asked. “A {look} one?” {Hero} smiled.",
    )
    s.say(
        "“Here is your baby,” said {hero}. The {mother} spread her wings and hugged them both.",
        "The little bird looked at her and knew her at once. “Mama!”",
    )
    s.say(
        "{Hero} was a little sad, but every day a small bird came to visit.",
        "“Thank you,” said the {mother}. “Now my child has a mother and a very good friend.”",
        "And when the little bird learned to fly, {hero} was the first to see it.",
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
    ("ladle", "a helmet", "a bell", "a bathtub"),
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
