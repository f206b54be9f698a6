"""Plots about making friends and keeping them."""

from ..story import Story
from ..words import PLAIN_LOOKS


_PARK = ("at the park", "in the park", "at the playground")
# What the newcomer has or does, and the game that grows out of it.
_MEETINGS = (
    (
        "was drawing on the ground with chalk",
        "Together they drew a [road|river|castle] so long that it reached the gate",
    ),
    ("was sitting alone on a swing", "They swung so high that their feet almost touched the clouds"),
    ("was building a tower out of stones", "They built a tower as high as {hero}'s knees, and it did not fall"),
    ("was kicking a ball against a wall", "They kicked the ball back and forth until they were out of breath"),
    ("was feeding the ducks", "They gave the ducks some oats, and the ducks quacked for more"),
    (
        "was digging a deep hole in the sand",
        "They dug and dug, and then they filled the hole with water and made a lake",
    ),
    ("was looking at ants through a magnifying glass", "They lay on their bellies and watched the ants carry crumbs"),
)


def new_friend(s: Story) -> None:
    s.child()
    s.friend()
    doing, game = s.pick(_MEETINGS)
    s.props(doing=doing, game=game, snack=s.pick(("an apple", "a cookie", "some raisins", "an orange", "a sandwich")))
    s.open("wanted somebody to play with", "was looking for a friend", "had nobody to play with", place=s.pick(_PARK))
    s.say(
        "There was a new {friend.kind} there. {friend.He} {doing}.",
        "Then {he} saw a {friend.kind} {he} did not know. {friend.He} {doing}.",
    )
    s.say(
        "{Hero} wanted to say hello, but {he} was shy.",
        "“Should I say something?” {he} wondered. {His} heart beat fast.",
        "{He} took two steps forward and one step back.",
    )
    s.say(
        "The {friend.kind} looked up and then looked away.",
        "The {friend.kind} seemed to be shy, too.",
        "Nobody said a word.",
    )
    s.par()
    s.say(
        "At last, {hero} took a deep breath. “Hi,” {he} said. “My name is {hero}. What's yours?”",
        "“Hello,” said {hero} at last. “I'm {hero}. Who are you?”",
    )
    s.say(
        "“I'm {friend},” said the {friend.kind}. “We moved here [last week|yesterday], and I don't know anyone.”",
        "“{friend},” said the {friend.kind} softly. “I'm new here.”",
    )
    s.maybe(
        "“Now you know me,” said {hero}.",
        "“I can show you everything,” said {hero}. “Can I play with you?”",
        "“Would you like to share {snack} with me?” asked {hero}. {Friend} nodded and smiled.",
    )
    s.say("{game}.")
    s.maybe(
        "They laughed a lot, and they were not shy anymore.",
        "It turned out that they both liked [trains|frogs|the color green|scary stories].",
    )
    s.par()
    s.say(
        "When it was time to go home, {friend} asked, “Will you come back tomorrow?” “[Of course|Yes, I promise]!” "
        "said {hero}.",
        "Too soon, the sun went down. “I have to go now,” said {friend}. “See you tomorrow!” said {hero}.",
        "Before they went home, they waved until they could not see each other anymore.",
    )
    s.say(
        "{Hero} ran all the way home. “I have a new friend!” {he} told {his} family.",
        "That is how {hero} and {friend} became best friends.",
        "It only takes one small hello to make a friend.",
        "From then on, they met every day after lunch.",
    )


_SHARED = (
    ("cookie", "broke the cookie in half"),
    ("sandwich", "cut the sandwich into two pieces"),
    ("peach", "cut the peach in half"),
    ("banana", "broke the banana in half"),
    ("pear", "cut the pear into slices"),
    ("muffin", "broke the muffin into two pieces"),
    ("orange", "peeled the orange and made two piles of pieces"),
    ("apple", "cut the apple into four pieces"),
)


def sharing(s: Story) -> None:
    s.anyone(plain=True)
    s.friend(family=True)
    noun, cut = s.pick(_SHARED)
    s.props(food=s.thing(noun, ("big", "round", "sweet", "large", "fresh", "delicious")), cut=cut)
    s.open("had {food.a} for lunch", "sat down under a tree to eat {food.a}", "was just going to eat {food.a}")
    s.maybe(
        "It smelled very good, and {he} was [so |very ]hungry.",
        "“This is the best {food} in the world,” {he} said, “and it's all mine.”",
    )
    s.say(
        "Then {friend.intro} came by. {friend.He} looked at {food.the}.",
        "Just then, {friend.intro} sat down next to {him}.",
    )
    s.say(
        "“I have nothing to eat,” said {friend}. “My lunch fell into the [river|mud].”",
        "“I forgot my lunch at home,” said {friend}, and {friend.his} belly rumbled.",
        "“That looks good,” said {friend}. “A dog ate my lunch.”"
        if s.hero_is_child()
        else "“That looks good,” said {friend}. “I have no food today.”",
    )
    s.say(
        "{Hero} held {food.the} tight. “But it's mine,” {he} said.",
        "{Hero} did not want to share. {He} turned around and opened {his} mouth.",
        "“There's only one,” said {hero}.",
    )
    s.maybe("{Friend} said nothing. {friend.He} just looked sad.", "“I understand,” said {friend} in a small voice.")
    s.par()
    s.say(
        "{Hero} was going to take a bite, but {he} did not feel good. It is no fun to eat when a friend is hungry.",
        "{Hero} looked at {food.the}, and then {he} looked at {friend}. “How would I feel?” {he} thought.",
    )
    s.say("“Wait,” said {hero}. {He} {cut}. “Let's share.”", "So {he} {cut}. “Half of it is for you,” {he} said.")
    s.say("“Really?” asked {friend}. “Thank you!”", "{Friend}'s face lit up. “You're so kind,” said {friend}.")
    s.maybe(
        "They ate side by side and watched the [clouds|butterflies|birds].",
        "They ate every crumb and licked their lips.",
    )
    s.par()
    s.say(
        "Half of it tasted better than all of it.",
        "It was strange. {Hero} had less to eat, but {he} felt full and happy.",
        "“I thought I would be sad with only half,” said {hero}, “but I'm not.”",
    )
    s.say(
        "The next day, {friend} brought a bag of [cherries|nuts|strawberries]. "
        "“Half of them are for you,” said {friend}.",
        "From then on, they always shared their lunch.",
        "And the next time, it was {friend} who shared.",
    )


# Where the second one hides, what gives it away, and what the seeker sees first.
_HIDING = (
    ("behind the curtain", "{hero} saw two feet under the curtain", "lifted the curtain"),
    ("in a big basket", "the basket coughed", "opened the lid"),
    ("in a pile of leaves", "the leaves giggled", "reached into the leaves"),
    ("behind the woodpile", "something behind the wood said, “Ouch!”", "looked over the wood"),
    ("in the closet", "one of the coats sneezed", "pushed the coats aside"),
    ("up in the apple tree", "an apple fell down, and then another", "looked up"),
    ("inside an old barrel", "the barrel began to snore", "looked into the barrel"),
    ("under the porch", "a cat walked under the porch and began to purr", "bent down"),
)


_EMPTY_SPOTS = ("behind the shed", "under the table", "behind the big tree", "in the bathtub", "behind the fence")


def hide_and_seek(s: Story) -> None:
    s.anyone()
    s.friend(family=True)
    place, sign, finding = s.pick(_HIDING)
    first, second = s.pick_some(_EMPTY_SPOTS, 2)
    s.props(
        hiding=place, sign=sign, stop="" if sign.endswith("”") else ".", finding=finding, first=first, second=second
    )
    s.open("wanted to play hide-and-seek", "was in the mood for hide-and-seek", "had an idea for a game")
    s.say(
        "“Let's play hide-and-seek! I will count,” {he} said to {friend.intro}.",
        "“Go and hide, and I will find you,” said {hero} to {friend.intro}.",
    )
    s.say(
        "{Hero} put {his} {hero.hand}s over {his} eyes. “One, two, three, four, five,” {he} counted.",
        "{He} closed {his} eyes and counted to twenty, but {he} left out fifteen.",
    )
    s.say(
        "{Friend} was very quick. {friend.He} hid {hiding} and did not make a sound.",
        "{Friend} ran on tiptoe and hid {hiding}.",
    )
    s.maybe("“Ready or not, here I come!” {hero} called.", "“I'm coming!” shouted {hero}.")
    s.par()
    s.say(
        "{Hero} looked {first}. Nobody was there. {He} looked {second}. Nobody was there, either.",
        "“Are you {first}?” No. “Are you {second}?” No.",
    )
    s.maybe(
        "{Hero} walked around and around. “Where are you?” {he} called, but there was no answer.",
        "It was so quiet that {he} began to worry. “{friend.call}? You can come out now!”"
        if s.who("friend").name
        else "It was so quiet that {he} began to worry. “Hello? You can come out now!”",
    )
    s.say("{Hero} sat down. “I give up,” {he} said sadly.", "{Hero} began to think that {friend} had gone home.")
    s.say("But then {sign}{stop}", "Just then, {sign}{stop}")
    s.say(
        "{Hero} smiled. {He} tiptoed closer and {finding}. “Found you!”",
        "“Aha!” said {hero}. {He} {finding}, and there was {friend}!",
    )
    s.par()
    s.maybe(
        "They laughed and laughed, because it was such a good hiding place.",
        "“You found me!” said {friend}. “I could not keep still any longer.”",
    )
    s.say("“Now it's my turn to hide,” said {hero}.", "“Again, again!” they both said at the same time.")
    s.say(
        "They played until they were called in for dinner.",
        "{Hero} hid so well that {friend} is still looking for {him}. No, that is only a joke. "
        "{friend.He} found {him} in a minute.",
        "{Hero} never told {friend} how {he} had found {friend.him}.",
    )


_SICK_GIFTS = (
    ("some hot soup", "The soup was warm and good, and {friend} ate every drop"),
    ("a funny drawing", "It was a picture of a cow on roller skates, and {friend} laughed out loud"),
    ("an exciting book", "{Hero} read it out loud through the open window, and {friend} listened"),
    ("a bunch of yellow flowers", "The flowers stood next to the bed and smelled of summer"),
    ("a jar of honey", "{Friend} stirred some honey into a cup of tea, and it was good for a sore throat"),
    ("an orange balloon", "The balloon had a smiling face, and it nodded at {friend} all day long"),
    ("a puppet made from a sock", "{Hero} let the puppet dance outside the window, and {friend} clapped"),
)


def sick_friend(s: Story) -> None:
    s.anyone()
    s.friend()
    s.parent()
    gift, effect = s.pick(_SICK_GIFTS)
    s.props(gift=gift, effect=effect, trouble=s.pick(("a cold", "a fever", "a sore throat", "a bad cough", "the flu")))
    s.open(
        "wanted to play with {his} friend {friend.who}",
        "went to see {his} friend {friend.who}",
        "waited a long time for {his} friend {friend.who}",
    )
    s.say(
        "But {friend} was ill. {friend.He} had {trouble} and had to stay in bed.",
        "But {friend} was sick in bed with {trouble}.",
    )
    s.maybe(
        "It is no fun to be sick, and it is no fun to have a sick friend.",
        "“You can't go in,” said {parent}, “or you will get sick, too.”",
    )
    s.maybe(
        "{Hero} tried to play alone, but it was not the same.",
        "It was a long, dull day. {Hero} missed {friend} very much.",
    )
    s.par()
    s.say(
        "“What can I do for {friend}?” {he} asked. {Parent} thought about it. "
        "“What makes you feel better when you are sick?”",
        "“I want {friend} to feel better,” {he} told {parent}. “Then do something kind,” said {parent}.",
    )
    s.say(
        "{Hero} had an idea. {He} got {gift} ready and walked to {friend}'s house.",
        "So {hero} took {gift} to {friend}'s house.",
    )
    s.say(
        "{He} knocked on the window. {Friend} looked out. {friend.His} nose was [red|pink], and {friend.his} eyes "
        "were tired.",
        "{Friend} came to the window with a thick scarf around {friend.his} neck.",
    )
    s.say(
        "“This is for you,” said {hero}[| through the window].",
        "“I brought you something,” said {hero}. “Get well soon!”",
    )
    s.say("{effect}.")
    s.maybe(
        "“Thank you,” said {friend}. “I feel better already.”",
        "“You are a good friend,” said {friend} in a hoarse voice.",
        "{Friend} smiled for the first time in days.",
    )
    s.par()
    s.say(
        "Every day, {hero} came to the window[ and waved|]. After a week, {friend} was well again.",
        "Two days later, there was a knock at the door. It was {friend}! "
        "{friend.He} was [strong and healthy|well] again.",
        "Soon the sickness was gone, and {friend} could go outside again.",
    )
    s.say(
        "They ran and played together until the stars came out.",
        "“Let's play!” said {friend}, and they raced each other down the hill.",
        "The next week, {hero} was in bed with {trouble}. And who came to the window? It was {friend}!",
        "{Hero} was glad. Everything is more fun with a friend.",
    )


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
