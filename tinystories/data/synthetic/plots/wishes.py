"""Plots with a wish and a little magic, and those where a machine or a cloud is the hero."""

from ..grammar import Character, Thing
from ..story import Story
from ..words import DAY, STARRY_NIGHT


_MAGIC = (
    (("shell", "white"), "on the beach", "A tiny voice came out of it"),
    (("lamp", "rusty"), "behind an old wall", "Blue smoke came out of it, and then a voice"),
    (("stone", "smooth green"), "by the river", "It became warm, and it began to speak"),
    (("feather", "silver"), "under a tree", "It rose up into the air and began to speak"),
    (("key", "old"), "in the tall grass", "It began to glow, and there was a soft voice"),
    (("bottle", "purple"), "in the sand", "When {he} opened it, out came a tiny fairy"),
)
# The wish, why it is fine at first, and why it is not.
_SILLY_WISHES = (
    (
        "I wish it were my birthday every day",
        "There was cake for breakfast, and there were presents on every chair",
        "But after ten days, {he} could not look at cake anymore, and nobody came to the party",
    ),
    (
        "I wish I were as small as an ant",
        "{He} slid down a leaf and took a bath in a drop of water",
        "Then it began to rain, and every drop was as big as a house",
    ),
    (
        "I wish I were as tall as a tower",
        "{He} could see over all the roofs, and {he} blew the clouds away",
        "But {he} did not fit into {his} bed, and nobody could hear what {he} said",
    ),
    (
        "I wish that I could have candy for every meal",
        "There was candy soup for lunch and chocolate fish for dinner",
        "But by the evening, {he} had a terrible tummy ache",
    ),
    (
        "I wish that it would never be bedtime",
        "The sun stayed in the sky, and {he} played and played",
        "But soon {he} was so tired that {he} could not stand, and {he} missed {his} pillow and the stars",
    ),
    (
        "I wish everything were pink",
        "The grass was pink, the dog was pink, and even the moon was pink",
        "But {he} could not find {his} shoes, the bees could not find the flowers, and nobody found it pretty anymore",
    ),
    (
        "I wish that I could fly like a bird",
        "{He} flew over the trees and waved at everyone",
        "But it was cold and lonely up there, and {he} did not know how to get down",
    ),
    (
        "I wish that nobody could see me",
        "{He} tickled {his} cousin and took a cookie right off the plate",
        "But nobody said good night to {him}, and nobody gave {him} a hug",
    ),
)


def silly_wish(s: Story) -> None:
    s.child()
    (noun, looks), place, magic = s.pick(_MAGIC)
    wish, good, bad = s.pick(_SILLY_WISHES)
    s.props(magic=Thing(noun, looks), where=place, voice=magic, wish=wish, good=good, bad=bad)
    s.open("found {magic.a} {where}", "saw {magic.a} {where}", "went for a walk and found {magic.a} {where}")
    s.say("{He} picked it up. {voice}.", "It was no ordinary {magic}. {voice}.")
    s.say(
        "“You have found me, so you may make a wish,” it said.",
        "“Make a wish,” it said, “but think before you speak.”",
    )
    s.say("{Hero} did not think for long. “{wish}!” {he} said.", "“{wish}!” said {hero} at once.")
    s.par()
    s.say("And that is just what happened. {good}.", "The wish came true. {good}.")
    s.maybe("“This is [wonderful|fantastic]!” said {hero}.", "{Hero} laughed and clapped {his} hands.")
    s.say("{bad}.")
    s.say(
        "“I don't like this anymore,” said {hero} in a small voice.",
        "{Hero} was not happy at all. “What a silly wish,” {he} said.",
    )
    s.par()
    s.say(
        "{He} went back to {magic.the}. “Please, I want everything to be the way it was,” {he} said.",
        "{He} called out to {magic.the}, “Please take my wish back!”",
    )
    s.maybe(
        "“Are you sure?” it asked. “[Very sure|Yes, please],” said {hero}.", "“I thought so,” said the voice kindly."
    )
    s.say("{He} blinked, and the magic was over.", "There was a flash of light, and everything was just as before.")
    s.say(
        "{Hero} had never been so glad to have an ordinary day.",
        "At home, {he} ate a plain piece of bread with butter, and it tasted wonderful.",
        "That night, {he} did not wish for anything. {He} had all that {he} needed.",
        "“Next time, I will think first,” said {hero}.",
    )


_NEEDY = (
    (
        "a bird with a broken wing",
        "I wish that the bird could fly again",
        "The bird spread its wings, sang a song and flew up into the blue sky",
    ),
    (
        "an old horse that could not see",
        "I wish that the horse could see again",
        "The horse opened its eyes, looked at the green grass and neighed with joy",
    ),
    (
        "an old tree without any leaves",
        "I wish that the tree could be green again",
        "One leaf came out, and then a thousand, and birds came to build their nests in it",
    ),
    (
        "a frog in a dry pond",
        "I wish that the pond were full of water",
        "Water filled the pond, and the frog jumped in with a big splash",
    ),
    (
        "a little fox that had lost its mother",
        "I wish that the fox were with its mother",
        "A big fox came running through the ferns and licked the little one's ears",
    ),
    (
        "a spotted puppy with a hurt leg",
        "I wish that the puppy could run again",
        "The puppy jumped up, barked and ran around {him} in circles",
    ),
)


def kind_wish(s: Story) -> None:
    s.anyone()
    who, wish, effect = s.pick(_NEEDY)
    s.props(needy=who, wish=wish, effect=effect)
    s.props(want=s.new_toy(s.pick(("bicycle", "drum", "sled", "dollhouse", "rocket", "flute"))))
    s.open(
        "saw a shooting star",
        "looked out of the window and saw a falling star",
        "saw a bright star fall into the garden",
        when=STARRY_NIGHT,
    )
    s.say(
        "It landed in the grass and glowed. “You may make one wish,” it said.",
        "“Good evening,” said the star. “I can give you one wish.”",
    )
    s.say(
        "{Hero} wanted {want.a} more than anything. “Can I think about it?” {he} asked. "
        "“Until tomorrow night,” said the star.",
        "“Just one?” asked {hero}. “Just one,” said the star. “You have one day to choose.”",
    )
    s.say("All night, {he} dreamed of {want.a}.", "{He} thought about {want.a}, and {he} could hardly wait.")
    s.par()
    s.say("The next day, {he} went for a walk and met {needy}.", "But the next morning, {he} saw {needy}.")
    s.maybe(
        "“You poor thing,” said {hero}. {He} stayed there for a long time.",
        "It looked so sad that {hero} felt a sting in {his} heart.",
    )
    s.maybe(
        "{He} tried to help, but there was nothing that {he} could do.",
        "“I wish I could help you,” {he} said. Then {he} remembered the star.",
    )
    s.par()
    s.say(
        "In the evening, the star was waiting. “What is your wish?” it asked.",
        "When night fell, the star came back. “Are you ready?” it asked.",
    )
    s.say(
        "{Hero} thought of {want.the_full} one last time. Then {he} said, “{wish}.”",
        "{Hero} took a deep breath. “{wish},” {he} said.",
    )
    s.say(
        "The star shone so brightly that it was like day. {effect}.",
        "“A good wish,” said the star. And then it happened. {effect}.",
    )
    s.say(
        "{Hero} did not get {want.the_full}, but {he} was happier than ever.",
        "“I would wish for the same thing again,” said {hero}.",
        "Every night after that, the star winked at {him}.",
        "{Hero} went home with a song in {his} heart.",
    )


# The machine, its home, its wish, and a job that is just its size.
_MACHINES = (
    (
        "boat",
        "red",
        "in a quiet harbor",
        "sail across the sea",
        "A big ship could not get into the narrow river, where a family was waiting for help",
        "sailed between the rocks and brought the family home",
    ),
    (
        "train",
        "green",
        "in an old station",
        "pull a hundred wagons",
        "The big trains could not go up the steep track to the mountain village",
        "puffed up the hill with bread, milk and wood for everyone",
    ),
    (
        "truck",
        "yellow",
        "in a garage",
        "carry the biggest load in the world",
        "The road was blocked, and the only other way was a narrow lane",
        "drove through the lane and brought the medicine to the doctor",
    ),
    (
        "bus",
        "blue",
        "in a small town",
        "drive to the big city",
        "All the big buses were broken, and the children could not get to their school party",
        "drove back and forth ten times until all the children were there",
    ),
    (
        "tractor",
        "orange",
        "on a farm",
        "win a race",
        "A school bus was stuck in the mud after the rain",
        "pulled and pulled until the bus came out with a loud plop",
    ),
    (
        "plane",
        "white",
        "at the end of a runway",
        "fly around the world",
        "A climber was lost in the mountains, and the big planes could not land there",
        "landed on a tiny meadow and took the climber home",
    ),
    (
        "tugboat",
        "black",
        "in a busy port",
        "be as big as the other ships",
        "A giant ship had no power, and the wind pushed it toward the rocks",
        "pulled with all {his} might and saved the ship",
    ),
)


def little_machine(s: Story) -> None:
    kind, color, home, dream, need, deed = s.pick(_MACHINES)
    gender = s.pick(("he", "she", "it"))
    adjectives = s.pick(("little", "small", f"little {color}", f"small {color}", "brave little"))
    name = s.pick(("", "", "Toot", "Chug", "Bolt", "Dash", "Buzz", "Zip"))
    s.hero(Character(kind, gender, name or f"the {kind}", adjectives=adjectives, name=name))
    s.props(home=home, dream=dream, need=need, deed=deed)
    s.open(
        "wanted to {dream}",
        "wished that {he} could {dream}",
        "had a big dream and wanted to {dream}",
        likes=(
            "{He} lived {home}.",
            "{He} worked hard every day, from morning to night.",
            "{He} was the smallest {hero.kind} of all.",
            "{He} was not very fast, but {he} never gave up.",
        ),
    )
    s.say(
        "The others laughed. “You are too small,” they said.",
        "“You?” said a big {hero.kind}. “Don't make me laugh!”",
        "“That is a job for big ones,” said the others.",
    )
    s.maybe("{Hero} did not answer, but {he} was sad.", "“I wish I were bigger,” thought {hero}.")
    s.say(
        "{Hero} went on with {his} small jobs. {He} did them well, and nobody noticed.",
        "Every day, {hero} practiced a little, in rain and wind.",
    )
    s.par()
    s.say("Then something happened. {need}.", "One stormy night, there was trouble. {need}.")
    s.maybe(
        "“Who can help?” everyone asked. The big ones looked at the ground.",
        "The big ones shook their heads. “We can't do it,” they said.",
    )
    s.say("“I can,” said {hero}. “I'm just the right size.”", "“Let me try,” said a small voice. It was {hero}.")
    s.say("It was hard, and it was dangerous. But {hero} {deed}.", "Everyone held their breath. {Hero} {deed}!")
    s.par()
    s.say(
        "Everyone cheered. “Hooray for {hero}!” they cried.",
        "When {hero} came home, the others were waiting. “We are sorry that we laughed,” they said.",
    )
    s.say(
        "{Hero} shone with joy. {He} did not want to be big anymore.",
        "Now everyone knew that small ones can do great things.",
        "And from that day on, nobody called {him} too small.",
    )


_SUN_LOVERS = (
    "two boys were flying a kite",
    "a family was having a picnic",
    "two farmers were drying hay",
    "some girls were playing ball",
    "three cats were lying in the sun",
    "some people were getting married",
    "two painters were painting a house",
)
_THIRSTY = (
    "a row of sunflowers",
    "a field of dry corn",
    "an old apple tree",
    "a patch of thirsty carrots",
    "a dusty garden",
    "a meadow full of sad daisies",
    "an empty pond with one unhappy frog",
    "a bed of tired tulips",
)


def little_cloud(s: Story) -> None:
    s.hero(
        Character(
            "cloud",
            s.pick(("he", "she", "it")),
            "the cloud",
            adjectives=s.pick(("little", "small white", "tiny", "little gray", "young")),
        )
    )
    s.props(thirsty=s.pick(_THIRSTY), loser=s.pick(_SUN_LOVERS))
    s.open(
        "wanted to be useful",
        "wanted to make somebody happy",
        "wanted to make friends",
        when=DAY,
        likes=(
            "{He} floated high up in the blue sky.",
            "{He} was as soft as a pillow and full of rain.",
            "{He} drifted over hills, towns and rivers.",
            "The wind carried {him} wherever it wanted.",
        ),
    )
    s.say(
        "{He} floated over a meadow where {loser}, and {he} came down to say hello.",
        "First, {he} saw a meadow where {loser}. {He} stopped right above it.",
    )
    s.say("“Go away!” they shouted. “You're blocking the sun!”", "“Oh no, a rain cloud!” they cried. “Shoo!”")
    s.maybe(
        "“Nobody likes me,” said {hero}, and {he} turned dark gray.",
        "{Hero} was hurt. “I only wanted to be friends,” {he} said.",
    )
    s.par()
    s.say(
        "{He} drifted on until {he} heard a weak voice. “Water, please,” it said.",
        "Then {he} came to a place where it had not rained for weeks.",
    )
    s.say(
        "Far below, {he} saw {thirsty}. Everything was brown and dry.",
        "Down there was {thirsty}. The ground was as hard as stone.",
    )
    s.say(
        "{Hero} was so sorry that {he} began to cry. Drip, drop, drip, drop!",
        "“I have water!” said {hero}. “I have lots of water!” And {he} let it all rain down.",
    )
    s.say(
        "The ground drank and drank. Soon there was a bit of green, and then a lot of green.",
        "The roots drank, the leaves stood up, and frogs came out to dance.",
    )
    s.par()
    s.say(
        "“Thank you, thank you!” called a hundred small voices.",
        "A farmer ran out of the house, looked up and laughed in the rain.",
    )
    s.maybe(
        "The sun came out behind {hero}, and there was a rainbow.",
        "{Hero} was much smaller now, but {he} was very happy.",
    )
    s.say(
        "From then on, {hero} went where {he} was needed.",
        "Every week after that, {hero} came back to see them.",
        "Everyone is welcome somewhere. You only have to find the place.",
    )
