"""Plots that happen at night."""

from ..story import Story
from ..words import NIGHT, STARRY_NIGHT, SUMMER


_SHAPES = (
    ("a tall, dark man by the door", "{hero}'s own coat, which hung on a hook"),
    ("a hairy monster in the corner", "a pile of clothes on a chair"),
    ("a hand with long, thin fingers on the wall", "the shadow of a branch outside the window"),
    ("a huge bird with shiny eyes on the shelf", "{hero}'s old teddy bear with its glass eyes"),
    ("a round head at the foot of the bed", "a [red|yellow|blue] balloon"),
    ("a big snake on the floor", "{hero}'s own [striped|green|long] scarf"),
    ("a dragon behind the curtain", "an open window and a little wind"),
)


def the_dark(s: Story) -> None:
    s.anyone()
    s.parent()
    shape, truth = s.pick(_SHAPES)
    s.props(
        shape=shape, truth=truth, light=s.pick(("a small lamp", "a flashlight", "a little night-light", "a lantern"))
    )
    s.open(
        "could not fall asleep",
        "was afraid of the dark",
        "lay in bed and did not dare to close {his} eyes",
        when=NIGHT,
        likes=(
            "{He} was brave during the day, but not at night.",
            "{He} was not afraid of thunder or bees or deep water. {He} was only afraid of the dark.",
            "{He} loved the day, but {he} did not like the night.",
            "{He} laughed and played all day, until it was time for bed.",
        ),
    )
    s.maybe(
        "The room was as black as [ink|coal].",
        "The moon was hiding, and the room was very dark.",
        "The light was off, and everything looked strange.",
    )
    s.say(
        "{Hero} saw {shape}!",
        "Suddenly, {he} saw something terrible. It was {shape}!",
        "Was that {shape}? {Hero} held {his} breath.",
    )
    s.maybe(
        "{He} pulled the blanket over {his} head and shook with fear.",
        "{His} heart beat faster and faster.",
        "{He} wanted to run, but {his} legs would not move.",
    )
    s.say("“Help!” {he} [cried|shouted]. “{parent.call}!”", "“{parent.call}, come quick!” {he} called.")
    s.par()
    s.say(
        "{Parent} came at once. “What is it, [my love|sweetie|little one]?” asked {parent}.",
        "The door opened, and {parent} came in. “Did you have a bad dream?” asked {parent}.",
    )
    s.say(
        "“Over there!” whispered {hero}. “[It moved!|Don't you see it?|It's coming to get me!]”",
        "“There's something in my room,” whispered {hero}, “and I'm scared.”",
    )
    s.say(
        "“Let's look at it together,” said {parent}, and {parent.he} turned on the light.",
        "{Parent} took {his} {hero.hand} and turned on the light. “Open your eyes,” said {parent}.",
    )
    s.say(
        "It was only {truth}.",
        "{Hero} looked, and then {he} looked again. It was only {truth}!",
        "There was no monster at all. There was only {truth}.",
    )
    s.maybe(
        "{Hero} [had to laugh|began to giggle]. “[How silly|That's not scary at all],” {he} said.",
        "“Oh,” said {hero}. “[I was afraid of that?|It looked so different in the dark.]”",
    )
    s.par()
    s.say(
        "{Parent} gave {him} {light}. “When you're not sure, take a look,” said {parent}.",
        "{Parent} put {light} next to the bed. “The same things are here at night and by day,” said {parent}.",
    )
    s.say(
        "{Hero} lay down again and [soon fell asleep|was asleep in a minute|slept until morning].",
        "After that, {hero} was not afraid of the dark anymore.",
        "That night, {hero} dreamed of [sunny fields|flying through the stars|a friendly dragon].",
        "“Good night, {parent.call},” said {hero}. “Good night, dark.” And {he} went to sleep.",
    )


# The sound, the place it comes from, what makes it, and what happens then.
_NOISES = (
    (
        "Tap, tap, tap",
        "the window",
        "a branch of the old tree was knocking on the glass",
        "“Hello, tree,” said {hero}. “[You woke me up!|Go to sleep!]”",
    ),
    (
        "Scratch, scratch",
        "the front door",
        "a wet little kitten was sitting in front of the door",
        "{Hero} dried it with a towel and gave it some warm milk. It purred.",
    ),
    (
        "Drip, drip, drip",
        "the kitchen",
        "water was dripping from the tap into a bowl",
        "{Hero} turned the tap, and the noise stopped.",
    ),
    (
        "Hoo, hoo",
        "the garden",
        "an owl was sitting on the fence and looking at the moon",
        "“Good night, owl,” said {hero}. “Hoo!” said the owl.",
    ),
    (
        "Crunch, crunch",
        "the kitchen",
        "a tiny mouse was eating a cracker under the table",
        "“Enjoy your dinner,” whispered {hero}. The mouse took its cracker and ran away.",
    ),
    (
        "Bang, bang",
        "the hall",
        "an open window was moving in the wind",
        "{Hero} closed the window, and all was quiet again.",
    ),
    (
        "Bzzz, bzzz",
        "behind the curtain",
        "a fat bee was trying to fly through the glass",
        "{Hero} opened the window, and the bee flew out into the night.",
    ),
    (
        "Squeak, squeak",
        "the porch",
        "the old rocking chair was rocking in the wind",
        "“It's only you,” said {hero}, and {he} turned the chair to the wall.",
    ),
    (
        "Grrr, grrr",
        "the next room",
        "{parent} was sleeping on the sofa and snoring",
        "{Hero} giggled and put a blanket over {parent}.",
    ),
)


def strange_noise(s: Story) -> None:
    s.child()
    s.parent()
    sound, place, truth, then = s.pick(_NOISES)
    s.props(
        sound=sound,
        place=place,
        truth=truth,
        then=then,
        guess=s.pick(("a ghost", "a giant", "a robber", "a wolf", "a monster", "an ogre")),
    )
    s.open("heard a strange noise", "woke up because of a strange noise", "sat up in bed and listened", when=NIGHT)
    s.say("“{sound},” it went. “{sound}.”", "“{sound}!” It came from {place}.", "There it was. “{sound}!”")
    s.say(
        "“What is that?” whispered {hero}. “Maybe it's {guess}!”",
        "“Is it {guess}?” {he} thought. {He} felt cold all over.",
        "{Hero} thought of {guess}, and {his} knees began to shake.",
    )
    s.maybe(
        "{He} hid under the blanket, but {he} could still hear it. “{sound}.”",
        "{He} put a pillow over {his} ears and counted to ten. The noise was still there.",
        "{He} waited for the noise to stop, but it did not stop.",
    )
    s.par()
    s.say(
        "{Hero} could not sleep like this. {He} had to be brave.",
        "But {he} was not a baby anymore. {He} wanted to know what it was.",
        "But being afraid is worse than knowing, so {hero} got up.",
    )
    s.say(
        "{He} took {his} flashlight and [tiptoed|crept] out of {his} room.",
        "{He} picked up {his} teddy bear, held it tight and went out of the room on tiptoe.",
        "{He} put on {his} slippers and walked slowly through the dark house.",
    )
    s.maybe(
        "One step, two steps, three steps. The noise got louder.",
        "The floor was cold, and the house was very still. Then it came again. “{sound}!”",
    )
    s.say(
        "{Hero} took a deep breath and looked. There was no sign of {guess}. {Truth}!",
        "Was it {guess}? No! {Truth}.",
        "Then {he} saw it, and {he} almost laughed. {Truth}!",
    )
    s.say("{then}")
    s.par()
    s.say(
        "Then {hero} went back to bed and slept well.",
        "In the morning, {hero} told everyone about it[ at breakfast|]. “You were very brave,” said {parent}.",
        "{Hero} was proud of {himself}, and {he} fell asleep with a smile.",
    )
    s.maybe(
        "After that, {hero} knew that most strange noises are not so strange.",
        "{He} was not afraid of noises in the night anymore.",
    )


_SLEEP_TIPS = (
    ("Count the stars", "counted up to thirty, and then {he} did not know what came next"),
    ("Drink some warm milk", "drank a whole cup, but now {he} was awake and full"),
    ("Hug your pillow", "hugged {his} pillow, and the feathers tickled {his} nose"),
    ("Think of something nice", "thought of birthday cake, and then {he} was hungry"),
    ("Listen to the wind", "listened, but the wind only told {him} to come out and play"),
    ("Lie on your other side", "turned around, and then {he} turned around again"),
    ("Close your eyes very tight", "closed {his} eyes so tight that they hurt"),
)


def sleepless(s: Story) -> None:
    s.animal("bear rabbit mouse fox kitten puppy lamb hedgehog squirrel bunny panda otter beaver".split())
    s.parent()
    (one, try1), (two, try2) = s.pick_some(_SLEEP_TIPS, 2)
    s.props(one=one, try1=try1, two=two, try2=try2)
    animals = ("owl", "frog", "cricket", "hen", "duck", "old cat", "goat", "bat")
    first, second = s.pick_some(animals, 2)
    s.props(first=first, second=second)
    s.open("could not sleep", "was wide awake", "turned left and right and could not fall asleep", when=NIGHT)
    s.maybe("{He} was tired, but {his} eyes did not want to close.", "The whole house was asleep, but {he} was not.")
    s.say(
        "{He} looked out of the window and asked a {first}. “{one},” said the {first}.",
        "“What helps you to sleep?” {he} asked a {first}. “{one},” said the {first}.",
    )
    s.say("{Hero} {try1}.", "So {hero} {try1}. That did not help.")
    s.say("Then {he} asked a {second}. “{two},” said the {second}.", "“{two},” said a {second}. “That always helps.”")
    s.say("{Hero} {try2}.", "{He} tried that, too. {He} {try2}.")
    s.par()
    s.say(
        "At last, {he} went to {parent}. “I can't sleep,” {he} said.",
        "{Parent} heard {him} and got up. “Why are you still awake, little one?” asked {parent}.",
    )
    s.say(
        "{Parent} thought about it. “What did we forget tonight?” {parent.he} asked.",
        "{Parent} smiled. “I think we forgot something.”",
    )
    s.say(
        "“My good-night kiss!” cried {hero}.",
        "“We forgot the good-night song!” said {hero}.",
        "“My story!” said {hero}. “You didn't read my story!”",
    )
    s.say(
        "So {parent} tucked {him} in again, and this time nothing was forgotten.",
        "{Parent} laughed and made up for it at once.",
    )
    s.par()
    s.say(
        "“Good night,” said {parent}. But {hero} did not answer. {He} was already asleep.",
        "Before {parent} could turn off the light, {hero} was asleep.",
        "{Hero} yawned once, twice, three times. Then there was only a tiny snore.",
        "Outside, the {first} and the {second} whispered, “Shh! At last!”",
    )


_CAMP_NOISES = (
    ("Something was sniffing at the tent", "a hedgehog", "it was looking for beetles"),
    ("Something was scratching on the cloth", "a cat", "it was cold and wanted to come in"),
    ("Something was hopping on the roof", "a frog", "it looked as surprised as they were"),
    ("Something was breathing outside", "the neighbor's dog", "it had come to say good night"),
    ("Something was humming over their heads", "a big brown moth", "it had seen their light"),
)


def camping(s: Story) -> None:
    s.child()
    s.friend(family=True)
    s.parent()
    noise, animal, reason = s.pick(_CAMP_NOISES)
    s.props(noise=noise, animal=animal, reason=reason, fear=s.pick(("bear", "monster", "wolf")))
    s.open(
        "wanted to sleep in a tent", "was allowed to sleep outside in a tent", "put up a tent in the yard", when=SUMMER
    )
    s.say("{He} invited {friend.intro}.", "“May I come, too?” asked {friend.intro}. “Of course,” said {hero}.")
    s.maybe(
        "They brought two sleeping bags, a flashlight and a bag of cookies.",
        "“If you're cold or scared, the door is open,” said {parent}. “We're never scared,” said {hero}.",
    )
    s.maybe(
        "They looked at the stars and listened to the crickets. “I can see the Big Dipper,” said {friend}.",
        "They told each other stories about bears and pirates until it was very late.",
    )
    s.say(
        "Then they turned off the light. It was dark, and everything was still.",
        "At last, they lay down and closed their eyes.",
    )
    s.par()
    s.say("Suddenly, there was a sound. {noise}!", "Then {hero} sat up. “Did you hear that?” {noise}.")
    s.say(
        "“It's a {fear},” whispered {friend}.",
        "“A {fear}!” whispered {friend}, and {friend.he} crawled deep into {friend.his} sleeping bag.",
    )
    s.say(
        "{Hero} wanted to run into the house. But first, {he} wanted to know what it was.",
        "{Hero} was scared, too, but {he} turned on {his} flashlight.",
    )
    s.say(
        "{He} opened the tent, just a little. It was {animal}, and {reason}.",
        "Carefully, {he} looked outside. There was {animal}, and {reason}.",
    )
    s.maybe(
        "They laughed so loudly that a light went on in the house.",
        "“What a terrible {fear}!” said {hero}, and they both began to giggle.",
    )
    s.par()
    s.say(
        "“Is everything all right?” called {parent}. “Yes,” called {hero}. “We have a visitor!”",
        "Then they closed the tent, and soon they were asleep.",
    )
    s.say(
        "In the morning, the grass was wet, and the birds were singing. “Let's do it again tonight,” said {friend}.",
        "The next morning, they were tired, but they were very proud.",
        "After that night, they were real campers.",
    )


def moon_in_pond(s: Story) -> None:
    s.animal(("fox", "raccoon", "cat", "duck", "bear", "otter", "monkey", "mouse", "puppy", "rabbit"))
    s.friend(kinds=("owl", "turtle", "hedgehog", "frog", "mole"), named=0)
    s.props(net=s.pick(("a net", "a bucket", "a basket", "a long stick", "an old spoon")))
    s.open(
        "saw the moon in the pond",
        "looked into the pond and saw something round and bright",
        "went to the pond and saw the moon in it",
        when=STARRY_NIGHT,
    )
    s.say(
        "“Oh no!” {he} cried. “The moon has fallen into the water!”",
        "“Poor moon!” {he} said. “It fell down, and now it's wet.”",
    )
    s.say(
        "{He} wanted to save it, so {he} ran home to get {net}.",
        "{He} fetched {net}. “Don't be afraid, moon,” {he} called.",
    )
    s.say(
        "{He} tried to pull it out. But the moon broke into a thousand pieces!",
        "{He} reached into the water. The moon shook, and then it was gone.",
    )
    s.maybe(
        "“Now I have broken it,” whispered {hero}. {He} wanted to cry.",
        "“What have I done?” said {hero}. “Now the nights will be dark forever.”",
    )
    s.par()
    s.say(
        "“What are you doing?” asked {friend.a}. {Hero} told {friend.him} everything.",
        "{friend.A} had watched it all. “Why are you so sad?” asked {friend}. “I broke the moon,” said {hero}.",
    )
    s.say(
        "{Friend} laughed softly. “Look up,” {friend.he} said.",
        "“You are looking in the wrong place,” said {friend}. “Look up there.”",
    )
    s.say(
        "{Hero} looked up. There was the moon, high above the trees, as round as ever.",
        "High in the sky, the moon was shining. It was not wet at all.",
    )
    s.say(
        "“But what is in the pond?” asked {hero}. “Only a picture,” said {friend}. “The water is a mirror.”",
        "“Then who is in the water?” asked {hero}. “Look again,” said {friend}. "
        "In the still water, {hero} saw the moon, the stars and {his} own face.",
    )
    s.par()
    s.say(
        "{Hero} laughed at {himself}, and {friend} laughed, too.",
        "They sat by the pond for a long time and looked at both moons.",
        "“Good night, moon,” said {hero}. “Good night, other moon.”",
        "“I'm glad that I didn't have to carry it,” said {hero}. “It looks heavy.”",
    )
