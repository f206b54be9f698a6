"""Plots about trips: to the beach, the zoo, the farm, and with a treasure map."""

from ..story import Story
from ..words import SUMMER


_CASTLE_PARTS = (
    ("a tall tower", "a wall with tiny windows", "a bridge of sticks"),
    ("four round towers", "a deep ditch", "a gate of shells"),
    ("a long wall", "a garden of seaweed", "a flag on a stick"),
    ("a huge tower", "stairs of flat stones", "a roof of shells"),
)


def beach(s: Story) -> None:
    s.child()
    s.friend(family=True)
    one, two, three = s.pick(_CASTLE_PARTS)
    s.props(one=one, two=two, three=three, creature=s.pick(("crab", "snail", "baby crab", "sea star")))
    s.open(
        "went to the beach with {his} family",
        "was at the beach with {his} family",
        "drove to the beach with {his} family",
        when=SUMMER,
    )
    s.maybe(
        "The sand was hot, and the water was blue and cool.",
        "White gulls were flying over the waves, and the air smelled of salt.",
    )
    s.say(
        "“Let's build a sandcastle,” {he} said to {friend.intro}.",
        "{He} took {his} bucket and shovel. “I'm going to build a castle,” {he} told {friend.intro}. "
        "“Will you help me?”",
    )
    s.say(
        "They dug and piled up the wet sand. They made {one}, {two} and {three}.",
        "First, they built {one}. Then they made {two}. Last of all came {three}.",
    )
    s.maybe(
        "“It's the finest castle in the world!” said {hero}.",
        "“A queen could live here,” said {friend}.",
        "They were very proud of it.",
    )
    s.par()
    s.say(
        "But the waves came closer and closer. Splash! A big wave washed half of the castle away.",
        "Then a huge wave rolled in. When it rolled out again, half of the castle was gone.",
    )
    s.say(
        "“No!” cried {hero}. “Go away, you bad sea!”",
        "{Hero} stamped {his} foot. “All our work is gone!”",
        "{Hero} burst into tears. “It's not fair,” {he} said.",
    )
    s.say(
        "{Friend} looked at the hole that the wave had made. “Look!” said {friend}. “Somebody has moved in!”",
        "“Wait,” said {friend}. “There is something in the sand!”",
    )
    s.say(
        "There was a little {creature}. It sat in the middle of the castle like a king.",
        "The wave had brought a little {creature}, and it was sitting right in front of the gate.",
    )
    s.say(
        "{Hero} wiped {his} eyes and laughed. “Welcome, Your Majesty,” {he} said.",
        "“Oh!” said {hero}. {He} forgot to be sad. “It must be looking for a home.”",
    )
    s.par()
    s.maybe(
        "They built a new wall around the {creature}, with a little pool in the middle.",
        "They built a small pool for it with a ring of stones.",
        "They built a second castle around it, farther from the water.",
    )
    s.say(
        "In the evening, they carried the {creature} back to the sea. “Goodbye!” they called.",
        "When the sun was low, the {creature} crawled back into the waves.",
    )
    s.say(
        "“Tomorrow, we'll build another one,” said {hero}.",
        "On the way home, {hero} fell asleep with sand between {his} toes.",
        "{Hero} took one white shell home, so that {he} would never forget that day.",
        "“The sea takes things, and the sea brings things,” said {friend}, and {hero} nodded.",
    )


# The thief, what it takes, what it likes better, and where it lives.
_THIEVES = (
    ("monkey", "reached through the bars", "a ripe banana"),
    ("goat", "pushed its head over the fence", "a bunch of carrots"),
    ("elephant", "stretched out its long trunk", "an apple"),
    ("giraffe", "bent down its long neck", "a branch with green leaves"),
    ("camel", "curled its big lips", "an ear of corn"),
    ("ostrich", "poked its head over the gate", "a lettuce leaf"),
    ("llama", "came up from behind", "a handful of oats"),
)


def zoo(s: Story) -> None:
    s.child()
    s.parent()
    thief, how, snack = s.pick(_THIEVES)
    s.props(thief=thief, how=how, snack=snack)
    s.props(seen=s.pick(("lions", "tigers", "penguins", "hippos", "zebras", "seals", "polar bears", "crocodiles")))
    s.props(
        hat=s.thing(
            s.pick(("hat", "cap", "scarf", "sun hat")),
            ("new", "favorite", "pretty", "old"),
            ("red", "blue", "green", "orange"),
        )
    )
    s.open(
        "went to the zoo with {parent}",
        "visited the zoo with {parent}",
        "was very happy, because {parent} took {him} to the zoo",
    )
    s.say("{Hero} was wearing {his} {hat.full}.", "{Hero} put on {his} {hat.full} for the trip.")
    s.maybe(
        "First, they saw the {seen}. “They're [so |very ]big!” said {hero}.",
        "First, they watched the {seen}. {Hero} loved them.",
        "They walked past the {seen}. “I could stay here all day,” said {hero}.",
    )
    s.say(
        "Then they came to the {thief}. “Hello!” said {hero}, and {he} went closer.",
        "{Hero} wanted to see the {thief}. {He} stood right in front of it and waved.",
    )
    s.par()
    s.say("The {thief} {how}. Snap! Now the {hat} was gone.", "All at once, the {thief} {how} and took the {hat}.")
    s.say("“That's mine!” shouted {hero}. “Give it back!”", "“Hey!” cried {hero}. “That is not your {hat}!”")
    s.maybe(
        "The {thief} only looked at {him} and chewed on the {hat}.",
        "The {thief} looked very pleased with the {hat}. It seemed to be laughing.",
    )
    s.maybe(
        "{Parent} wanted to pull it back, but the {thief} pulled harder.",
        "A lot of people stopped and laughed, but {hero} did not think that it was funny.",
    )
    s.say(
        "Then a zookeeper came. “You have to trade,” she said, and she gave {hero} {snack}.",
        "“Don't pull,” said a zookeeper. “It will tear. Try this.” He gave {hero} {snack}.",
    )
    s.say(
        "{Hero} held it up. The {thief} looked at it, dropped the {hat} and began to eat.",
        "“Look what I have,” said {hero}. The {thief} opened its mouth, and the {hat} fell down.",
    )
    s.par()
    s.say(
        "The {hat} was wet and a little chewed, but {hero} put it on again.",
        "Quickly, {hero} picked up the {hat}. There was a tiny hole in it.",
    )
    s.maybe(
        "“Now it's a real zoo {hat},” said {parent}, and they both laughed.",
        "“The {thief} only wanted to be friends,” said {parent}. “Friends don't eat my {hat},” said {hero}.",
    )
    s.say(
        "At home, {hero} told the story again and again.",
        "That night, {he} dreamed of a {thief} with a {hat} on its head.",
        "Whenever {he} wore the {hat} after that, {he} thought of the {thief}.",
    )


# The missing young one, the places searched, and why it went where it is found.
_FARM_BABIES = (
    ("chick", "hen", "in an old rubber boot", "It was warm and dark in there, like under a wing"),
    ("piglet", "pig", "in the mud behind the barn", "It was rolling around, and only its pink nose was clean"),
    ("lamb", "sheep", "in the doghouse", "It was sleeping with its head on the old dog's back"),
    ("duckling", "duck", "in a bucket of water", "It was swimming around and around, and it could not get out"),
    ("calf", "cow", "in the middle of the cornfield", "It had followed a butterfly, and it had lost its way"),
    ("little goat", "goat", "on the roof of the tractor", "It had climbed up, and it was enjoying the view"),
    ("foal", "horse", "behind the haystack", "It was eating a dandelion, and it looked quite happy"),
)
_FARM_SPOTS = (
    "in the barn",
    "in the stable",
    "under the wagon",
    "behind the well",
    "among the cabbages",
    "in the orchard",
)


def farm(s: Story) -> None:
    s.child()
    s.parent(
        "farmer",
        (
            ("grandma", "she", "Grandma"),
            ("grandpa", "he", "Grandpa"),
            ("uncle", "he", "Uncle"),
            ("aunt", "she", "Auntie"),
        ),
    )
    young, mother, spot, why = s.pick(_FARM_BABIES)
    first, second = s.pick_some(_FARM_SPOTS, 2)
    s.props(young=young, mother=mother, spot=spot, why=why, first=first, second=second)
    s.open(
        "visited {farmer} on {farmer.his} farm", "went to stay on a farm with {farmer}", "helped {farmer} on the farm"
    )
    s.maybe(
        "They fed the chickens and gave the [horses|donkeys] fresh hay.",
        "{Hero} collected brown eggs and filled the water buckets.",
        "{Hero} learned how to milk a goat, and {he} got a glass of warm milk.",
    )
    s.say("“Now let's count the animals,” said {farmer}.", "In the evening, they looked after all the animals.")
    s.say(
        "But the {mother} was [sad|upset]. She walked up and down and cried out.",
        "The {mother} made a lot of noise. “What's wrong with her?” asked {hero}.",
    )
    s.say(
        "“Her {young} is missing!” said {farmer}. “We have to find it before dark.”",
        "{Hero} looked around. “Where is her {young}?” {he} asked. It was gone!",
    )
    s.par()
    s.say(
        "They looked {first}, and they looked {second}. The {young} was not there.",
        "{Farmer} looked {first}, and {hero} looked {second}. They did not find it.",
    )
    s.maybe("{Hero} called and called, but there was no answer.", "The sky turned pink, and the first star came out.")
    s.say("{Hero} stood still and listened. Then {he} heard a soft sound.", "“Shh,” said {hero}. “Do you hear that?”")
    s.say(
        "{He} followed the sound. There was the {young}, {spot}! {why}.",
        "It was the {young}! {Hero} found it {spot}. {why}.",
    )
    s.maybe("“I found it!” shouted {hero}.", "“So this is where you are, you silly little thing,” said {hero}.")
    s.par()
    s.say(
        "{Hero} took it back to its mother. The {mother} was so happy that she licked {his} hand."
        if mother not in ("hen", "duck")
        else "{Hero} carried it back to its mother. The {mother} flapped her wings with joy.",
        "When the {young} was back, the {mother} was quiet again.",
    )
    s.say(
        "“You have good ears,” said {farmer}. “You would make a good farmer.”",
        "“What would I do without you?” said {farmer}.",
    )
    s.say(
        "“When I'm big, I want to live on a farm,” said {hero}.",
        "From then on, the {young} followed {hero} everywhere.",
        "{Hero} was allowed to give the {young} a name. {He} called it [Star|Pepper|Peanut|Daisy|Cookie].",
    )


_TREASURES = (
    ("an old tin box", "a whistle, three marbles and a letter", "Whoever finds this is a real explorer"),
    ("a wooden chest", "chocolate coins in gold paper", "Share this treasure, and it will taste twice as good"),
    ("a blue jar", "a silver ring and an old photograph", "We hid this when we were as old as you"),
    ("a big bag", "two wooden swords and a pirate flag", "Be brave, be kind, and be home for dinner"),
)
_MAP_STEPS = (
    "Take ten steps from the door to the apple tree",
    "Walk along the wall until you see a snail",
    "Go around the well two times",
    "Jump over the ditch like a frog",
    "Crawl under the hedge",
    "Follow the path to the old stone",
    "Turn left at the crooked tree",
)


def treasure_map(s: Story) -> None:
    s.anyone()
    s.friend(family=True)
    s.grandparent("maker")
    box, inside, letter = s.pick(_TREASURES)
    one, two = s.pick_some(_MAP_STEPS, 2)
    s.props(box=box, inside=inside, letter=letter, one=one, two=two)
    s.props(where=s.pick(("an old book", "a bottle", "a dusty drawer", "the attic", "an old coat")))
    s.open("found a map in {where}", "discovered an old map in {where}", "found a piece of yellow paper in {where}")
    s.say(
        "There was a red cross on it. “[It's a treasure map!|There must be a treasure!]” {he} [cried|said].",
        "“A treasure map!” {he} whispered. {His} hands were shaking."
        if s.hero_is_child()
        else "“A treasure map!” {he} whispered.",
    )
    s.say(
        "{He} ran to {friend.intro}. “Look! Will you come with me?”",
        "{He} showed it to {friend.intro}. “Let's go!” said {friend}.",
    )
    s.say(
        "“{one},” {hero} read, and that is what they did. “{two}.” They did that, too.",
        "The map said, “{one}.” Then it said, “{two}.” They did just what it said.",
    )
    s.maybe(
        "{Friend} got stuck in a bush, and {hero} had to pull {friend.him} out.",
        "Once they went the wrong way and stepped into a puddle.",
        "It began to get dark, but they did not want to stop.",
    )
    s.par()
    s.say(
        "At last, they came to the place with the red cross. “We have to dig here,” said {hero}.",
        "“This is it,” said {friend}. “The treasure is under our feet.”",
    )
    s.say(
        "They dug and dug. Then something went clonk!",
        "They began to dig. First they found a stone, and then they found a root.",
    )
    s.say(
        "It was {box}! They opened it and found {inside}.",
        "And there was {box}! Together, they opened it and found {inside}.",
    )
    s.say("On a piece of paper, they read, “{letter}.”", "There was also a note. “{letter},” it said.")
    s.par()
    s.say(
        "“Who wrote this?” asked {friend}. Then they heard a laugh behind them. It was {maker}!",
        "{Hero} knew that writing. “{maker.call}!” {he} cried. {Maker} came out from behind a tree, laughing.",
    )
    s.maybe(
        "“I wanted to see if you were clever enough,” said {maker}.",
        "“I made that map a long time ago,” said {maker}. “You were very clever.”",
    )
    s.say(
        "“The best part was looking for it,” said {hero}.",
        "They shared the treasure and told everyone about their adventure.",
        "That evening, {hero} and {friend} began to draw a map of their own.",
        "The next day, they hid a new treasure for {maker}.",
    )
