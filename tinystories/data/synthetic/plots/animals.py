"""Plots about animals that live as animals do: in nests and burrows, on farms, in ponds."""

from ..story import Story
from ..words import AUTUMN, DAY, SPRING


# The event that makes the bird fly in spite of its fear, and what the first flight achieves.
_REASONS_TO_FLY = (
    (
        "a cat crept up to {his} little brother, who was sitting in the grass",
        "There was no time to be afraid",
        "{He} flew right over the cat's nose and chirped. The cat ran after {him}, and {his} brother was safe",
    ),
    (
        "the wind blew {his} little sister out of the nest",
        "There was no time to think",
        "{He} dived down to {his} sister and showed her how to land softly in the grass",
    ),
    (
        "there was a ripe, red cherry on the next tree",
        "It looked so good that {he} forgot to be afraid",
        "{He} landed right next to the cherry and ate it in three bites",
    ),
    (
        "smoke was coming out of the farmhouse",
        "Somebody had to wake the farmer",
        "{He} flew to the window and chirped until the farmer woke up and put out the fire",
    ),
)


def first_flight(s: Story) -> None:
    s.animal(("bird", "owl", "sparrow", "robin", "parrot"))
    s.parent()
    s.props(fall=s.pick(("a bush", "a pile of leaves", "the soft grass", "a bed of moss")))
    reason, courage, deed = s.pick(_REASONS_TO_FLY)
    s.props(reason=reason, courage=courage, deed=deed)
    s.open(
        "wanted to fly",
        "sat on the edge of the nest and looked down",
        "was afraid to fly",
        when=SPRING,
        likes=(
            "{He} lived in a nest at the top of a tall tree.",
            "{He} had never been outside the nest.",
            "{He} had soft feathers and two small wings.",
            "{He} liked to watch the clouds go by.",
        ),
    )
    s.say(
        "“Just open your wings and jump,” said {parent}. “The air will carry you.”",
        "“It's easy,” said {parent}. “Flap, flap, flap, and up you go.”",
    )
    s.say(
        "But the ground was far away. “What if I fall?” asked {hero}.",
        "“I can't,” said {hero}. “My wings are too [small|short].”",
    )
    s.say(
        "{He} flapped {his} wings and jumped. Plop! {He} landed in {fall}.",
        "The first time, {he} closed {his} eyes, jumped and fell into {fall}.",
    )
    s.maybe(
        "{He} climbed back up, one branch at a time.",
        "“That was not flying,” {he} said. “That was falling.”",
        "Nothing was hurt, only {his} pride.",
    )
    s.maybe(
        "{Hero} did not want to try again. {He} hid {his} head under {his} wing.",
        "{Hero} hung {his} head. “I will never be a real bird.”",
    )
    s.par()
    s.say("The next day, {reason}.", "But one morning, {reason}.")
    s.say("{Courage}. {Hero} opened {his} wings and jumped.", "{Courage}. {Hero} spread {his} wings wide.")
    s.say(
        "The air carried {him}. {He} was flying!",
        "Flap, flap, flap! {He} was flying over the branches and over the road!",
    )
    s.say("{deed}.")
    s.par()
    s.maybe(
        "“Look, {parent.call}! I can fly!” cried {hero}.",
        "“Did you see that?” called {hero}. {Parent} had seen it all.",
    )
    s.say(
        "“I knew that your wings were big enough,” said {parent}.",
        "From that day on, the sky belonged to {him}, too.",
        "{Hero} flew around the tree three times, and {he} was not afraid anymore.",
        "“The first step is the hardest,” said {parent}, and they flew home side by side.",
    )


_WINTER_FOOD = ("nuts", "seeds", "dried berries", "apples", "acorns", "mushrooms")


def winter_store(s: Story) -> None:
    s.animal(("squirrel", "mouse", "hamster", "hedgehog", "mole", "beaver"))
    s.friend(kinds=("bird", "rabbit", "mouse", "squirrel", "robin", "sparrow"))
    food = s.pick(_WINTER_FOOD)
    s.props(
        food=food,
        fun=s.pick(
            ("danced in the leaves", "sang all day", "lay in the sun", "slept until noon", "splashed in the stream")
        ),
    )
    s.open(
        "began to gather {food}",
        "worked hard and carried {food} to {his} home",
        "collected {food} for the winter",
        when=AUTUMN,
    )
    s.maybe(
        "“Winter is coming,” {he} said. “When the snow falls, there will be nothing to eat.”",
        "“One for today, and two for the winter,” {he} counted.",
    )
    s.say(
        "{His} friend {friend.who} only laughed and {fun}.",
        "But {his} friend {friend.who} did not work. {friend.He} {fun}.",
    )
    s.maybe(
        "“Come and play!” called {friend}. “Winter is far away.” “Not so far,” said {hero}.",
        "“You should get some food, too,” said {hero}. “Tomorrow, maybe,” said {friend}.",
    )
    s.say(
        "The days grew short, and the leaves fell. Soon {hero}'s home was full of {food}.",
        "Week after week, {hero} worked. {His} cupboard was full to the top.",
    )
    s.par()
    s.say(
        "Then the snow came. It covered everything, and the wind was icy.",
        "One night, it snowed and snowed. In the morning, the whole forest was white.",
    )
    s.say(
        "{Hero} was warm and had plenty to eat. Then there was a soft knock at the door.",
        "Somebody was scratching at the door. {Hero} opened it.",
    )
    s.say(
        "It was {friend}. {friend.He} was thin and cold. “I have nothing to eat,” {friend.he} said. "
        "“I should have listened to you.”",
        "There stood {friend}, shaking all over. “Please, may I come in?” {friend.he} asked. “I'm so hungry.”",
    )
    s.maybe(
        "{Hero} looked at the {food}. Would there be enough for two?",
        "The winter was long, and {food} do not fall from the sky.",
        "For a moment, {hero} was a little angry.",
    )
    s.say(
        "{Hero} looked at {friend}'s cold face. “Come in,” said {hero}. “There is enough for both of us.”",
        "Then {he} saw {friend}'s cold, wet feet. “Come in quickly,” {he} said, and {he} filled a bowl to the top.",
    )
    s.par()
    s.say(
        "They ate by candlelight and told stories until the snow melted.",
        "All winter, they shared the {food}, and {friend} sang every night, so that it was never dull.",
    )
    s.say(
        "The next autumn, {friend} was the first one to gather {food}.",
        "“Next year, I will help you,” said {friend}. And that was a promise.",
        "When spring came, {friend} brought {hero} the very first flower.",
        "{Friend} learned to work, and {hero} learned that a full house is better with a friend in it.",
    )


def lost_little_one(s: Story) -> None:
    s.animal(
        ("duck", "lamb", "penguin", "pig", "elephant", "goat", "deer", "owl", "rabbit", "fox", "zebra"),
        looks=("little", "little {color}", "tiny", "baby", "very young"),
        named=0.6,
    )
    s.parent("parent", (("mom", "she", "Mom"), ("mother", "she", "Mom"), ("mama", "she", "Mama")))
    one, two = s.pick_some(("frog", "turtle", "bee", "crow", "snail", "hare"), 2)
    clue = s.pick(
        (
            ("a soft voice", "the softest voice"),
            ("warm breath", "the warmest breath"),
            ("a beautiful song", "the most beautiful song"),
            ("kind eyes", "the kindest eyes"),
        )
    )
    s.props(
        one=one,
        two=two,
        clue=clue[0],
        proof=clue[1],
        lure=s.pick(
            ("a blue butterfly", "a bouncing grasshopper", "a rolling nut", "a shiny beetle", "a floating leaf")
        ),
    )
    s.open("followed {lure}", "saw {lure} and ran after it", "ran after {lure} and did not look back", when=DAY)
    s.say(
        "When {he} stopped at last, {he} did not know where {he} was.",
        "It led {him} far away. Suddenly, it was gone, and so was {parent}.",
    )
    s.say(
        "“{parent.call}?” {he} called. Nobody answered.",
        "{He} looked left, and {he} looked right. There was only tall grass.",
    )
    s.sad()
    s.par()
    s.say(
        "A {one} came along. “Have you seen my {parent.kind}?” asked {hero}. “What is she like?” asked the {one}.",
        "“Why are you crying?” asked a {one}. “I have lost my {parent.kind},” said {hero}. "
        "“What is she like?” asked the {one}.",
    )
    s.say("“She has {clue},” said {hero}. “I'm sorry,” said the {one}. “I don't know her. Go and ask the {two}.”")
    s.say(
        "{Hero} ran to the {two}. “I saw somebody by the [stream|old bridge|three birches],” said the {two}. "
        "“She was looking for a little one.”",
        "{Hero} ran to the {two}. “Don't cry,” said the {two}. “Stay here with me. Mothers always come back.” "
        "So they waited together.",
    )
    s.say(
        "Then {hero} heard something. “That's her!” {he} cried.",
        "All of a sudden, {hero} lifted {his} head. “Listen!”",
    )
    s.say(
        "{Parent} came running. “There you are, my little one!”",
        "And there she was! {Parent} ran to {him} and covered {him} with kisses.",
    )
    s.par()
    s.maybe(
        "“I told them that you have {proof} in the world,” said {hero}.",
        "“I was so scared,” said {hero}. “So was I,” said {parent}. “Stay close to me now.”",
    )
    s.say(
        "On the way home, {hero} did not look left or right.",
        "That night, {hero} slept very close to {parent}.",
        "They thanked the {two}, and then they walked home, side by side.",
        "From then on, {hero} always looked back to see where {parent} was.",
    )


_HURTS = (
    ("a thorn in {friend.his} {friend.hand}", "pulled out the thorn with {his} teeth"),
    ("a stone between {friend.his} toes", "pushed the stone out with a stick"),
    ("a string around {friend.his} leg", "bit through the string"),
    ("a burr behind {friend.his} ear", "pulled the burr out, little by little"),
    ("a splinter in {friend.his} {friend.hand}", "pulled the splinter out"),
)
_PAYBACKS = (
    ("{He} fell into the river and could not swim", "pulled {him} out of the water"),
    ("{He} was caught in a net", "tore the net apart"),
    ("{He} got lost in a thick fog", "led {him} safely home"),
    ("A rock rolled in front of {his} door, and {he} could not get out", "pushed the rock aside"),
    ("{He} could not reach the last apples on the tree", "shook the tree until they all fell down"),
)


def hurt_paw(s: Story) -> None:
    s.animal(("mouse", "rabbit", "squirrel", "hamster", "bunny", "mole", "kitten", "hedgehog"))
    s.friend(
        kinds=("bear", "lion", "dog", "tiger", "fox", "panda"),
        looks=("big", "large", "big {color}", "strong"),
        named=0,
    )
    hurt, cure = s.pick(_HURTS)
    trouble, rescue = s.pick(_PAYBACKS)
    s.props(hurt=hurt, cure=cure, trouble=trouble, rescue=rescue)
    s.open(
        "heard somebody crying",
        "heard a sad sound",
        "went for a walk and heard someone moan",
        place=s.pick(("in the forest", "in the woods", "behind the hill")),
    )
    s.say(
        "It was {friend.a}. {friend.He} could hardly walk.",
        "Under a tree sat {friend.a} with tears in {friend.his} eyes.",
    )
    s.maybe(
        "{Hero} wanted to run away, because {friend} had such big teeth.",
        "{Hero} was afraid. But {friend} looked so sad that {he} stayed.",
    )
    s.maybe(
        "“What's the matter?” asked {hero}. “It hurts so much,” said {friend}.",
        "“Please don't go,” said {friend}. “I won't bite.”",
    )
    s.say("There was {hurt}. “Hold still,” said {hero}.", "{Hero} looked closely. {Friend} had {hurt}.")
    s.say(
        "{He} {cure}. “Ouch! Oh. It doesn't hurt anymore!” said {friend}.",
        "Carefully, {hero} {cure}. “That feels so much better,” said {friend}.",
    )
    s.maybe(
        "{Friend} bowed and promised to help {hero} one day, too.",
        "{Friend} never forgot it.",
    )
    s.par()
    s.say(
        "Some weeks later, {hero} was in trouble. {trouble}.",
        "Winter came and went. Then, one day, {hero} needed help. {trouble}.",
    )
    s.say("“Help!” {he} cried. “Is anybody there?”", "{He} called as loudly as {he} could, but {his} voice was small.")
    s.say("Somebody came running through the trees. It was {friend}!", "But {friend} had good ears.")
    s.say(
        "“My turn,” said {friend}, and {friend.he} {rescue}.", "In a flash, {friend} was there. {friend.He} {rescue}."
    )
    s.par()
    s.maybe(
        "“You remembered!” said {hero}. “A friend always remembers,” said {friend}.",
        "“Thank you,” said {hero}. “Now we are real friends.”",
    )
    s.say(
        "From then on, you could often see them together, the big one and the small one.",
        "Kindness is like a ball. You throw it, and it comes back.",
        "That evening, they watched the sunset together.",
    )
