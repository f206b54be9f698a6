"""Plots that belong to a season, from the first seed to the snow."""

from ..grammar import Thing
from ..story import Story
from ..words import AUTUMN, SNOW, SPRING, SUMMER, WIND


# The seed, what it becomes, what is done with it, and what they are.
_SEEDS = (
    (
        "a tiny black seed",
        "a tall sunflower",
        "The sunflower was taller than {hero}, and the bees came to visit it every day",
    ),
    ("an orange pumpkin seed", "a huge pumpkin", "They made soup for the whole street, and there was still some left"),
    ("a round pea", "a green plant full of peas", "{Hero} opened a pod and ate the sweet peas, one by one"),
    (
        "a little tomato seed",
        "a bush with red tomatoes",
        "They put the tomatoes on fresh bread, and they tasted like summer",
    ),
    ("a brown bulb", "a beautiful red tulip", "Everyone who walked by stopped and smiled at it"),
    ("a flat, white seed", "an enormous melon", "They cut it into slices, and the sweet juice ran down their chins"),
    ("a striped seed", "a sunflower with a golden face", "In the fall, the birds ate its seeds and sang for {hero}"),
    (
        "a smooth red bean",
        "a bean plant as tall as a door",
        "They cooked the beans for dinner, and {hero} ate two bowls",
    ),
)


def seed(s: Story) -> None:
    s.anyone()
    s.grandparent()
    seed_, plant, end = s.pick(_SEEDS)
    s.props(seed=seed_, plant=plant, end=end, pest=s.pick(("a snail", "a green bug", "a fat caterpillar", "a slug")))
    s.open("found {seed}", "got {seed} from {elder}", "planted {seed}", when=SPRING)
    s.say(
        "{He} made a hole in the soft ground, put it in and covered it with earth.",
        "{Elder} showed {him} how to push it into the earth, not too deep.",
    )
    s.say(
        "“Now it needs water, sun and time,” said {elder}.",
        "“What does it need?” asked {hero}. “Water, light and a little love,” said {elder}.",
    )
    s.say(
        "{Hero} watered it and sat down to wait. Nothing happened.",
        "The next morning, {hero} ran out to look, but there was only brown earth.",
    )
    s.maybe(
        "“Why doesn't it grow?” {he} asked. “[Be patient|It is still asleep],” said {elder}.",
        "“I think it's broken,” {he} said. {Elder} laughed. “Good things take time.”",
    )
    s.par()
    s.say(
        "{Hero} watered it every day, and {he} even sang to it.",
        "It rained, and the sun shone, and then it rained again.",
    )
    s.say(
        "Then, one morning, there was a tiny green sprout!",
        "After ten days, something green was peeping out of the ground.",
    )
    s.maybe(
        "“[It's alive|It's growing]!” shouted {hero}, and {he} danced around it.",
        "“Hello, little plant,” said {hero}. “I'm so happy to see you!”",
    )
    s.maybe(
        "Once, {pest} came to eat the leaves, but {hero} carried it to the other side of the [fence|meadow].",
        "When the wind was strong, {hero} tied the plant to a stick so that it would not break.",
        "On hot days, {hero} made a little roof for it out of [an umbrella|a leaf].",
    )
    s.say(
        "It grew and grew. At the end of the summer, it was {plant}.",
        "Week by week, it grew bigger. By August, it was {plant}.",
    )
    s.par()
    s.say("{end}.")
    s.say(
        "“I waited so long,” said {hero}, “but it was worth it.”",
        "“You did that,” said {elder}. “You and the sun and the rain.”",
        "{Hero} was proud. {He} had learned to be patient.",
        "“What shall we plant next year?” asked {elder}. {Hero} already had an idea.",
    )


def butterfly(s: Story) -> None:
    s.anyone()
    s.friend(family=True)
    s.props(
        look=s.pick(("green", "striped", "hairy", "yellow")),
        wings=s.pick(("orange and black", "blue", "yellow", "white and gold")),
    )
    s.open(
        "found a {look} caterpillar",
        "saw a {look} caterpillar on a leaf",
        "met a {look} caterpillar",
        when=SPRING,
        place="in the garden",
    )
    s.maybe("It was eating a leaf. Munch, munch, munch.", "It was small, but it was very hungry.")
    s.say(
        "“I will take care of you,” {he} said. {He} put it in a glass jar with holes in the lid.",
        "{He} carried it inside and made a home for it in a big jar.",
    )
    s.maybe(
        "Every day, {he} gave it fresh leaves. It got longer and fatter.",
        "It ate all day long and grew as thick as a thumb.",
    )
    s.say(
        "“What will you do with an old worm?” asked {friend.intro}. “Wait and see,” said {hero}.",
        "{friend.Intro} looked into the jar. “It isn't very pretty,” said {friend}. “But I like it,” said {hero}.",
    )
    s.par()
    s.say(
        "One morning, the caterpillar was gone. There was only a little brown shell on a twig.",
        "Then it stopped eating. It hung upside down and made a small, hard shell around itself.",
    )
    s.maybe(
        "“Is it dead?” asked {friend}. “No,” said {hero}. “It's only sleeping.”",
        "{Hero} was worried, but {he} waited. One week went by, and then another.",
    )
    s.say(
        "At last, the shell opened, and out came a wet, tired creature.",
        "Then, early one day, the shell cracked. “Come quick!” called {hero}. “It's waking up!”",
    )
    s.say(
        "It opened its wings. They were {wings}. It was a butterfly!",
        "Slowly, it unfolded its {wings} wings. The caterpillar was a butterfly now!",
    )
    s.maybe(
        "“Oh!” said {friend}. “It's the most beautiful thing that I have ever seen.”",
        "“I take it back,” said {friend}. “It's very, very pretty.”",
    )
    s.par()
    s.say(
        "{Hero} wanted to keep it. But it beat its wings against the glass, again and again.",
        "{Friend} wanted to keep it. {Hero} shook {his} head. “It wants to fly,” {he} said.",
    )
    s.say(
        "So they took the jar outside and opened it. The butterfly sat on {hero}'s nose for a moment, and then it "
        "flew away.",
        "{Hero} opened the lid. Up and up it went, over the roses and over the wall.",
    )
    s.say(
        "{Hero} was a little sad, but {he} was happy, too.",
        "“Goodbye!” they called. “Come and see us again!”",
        "Sometimes, a {wings} butterfly flew by the window, and {hero} always waved.",
        "When you love something, you let it be free.",
    )


# What spoils the picnic, and what they do about it.
_PICNIC_TROUBLE = (
    (
        "cookies",
        "A long line of ants marched over the blanket and into the basket",
        "put a few crumbs on a leaf, far away from the blanket",
        "The ants followed the smell and left the rest alone",
    ),
    (
        "cheese",
        "A dark cloud came, and big drops of rain began to fall",
        "crawled under a big tree and pulled the blanket over their heads",
        "It was dry and cozy there, like in a tent",
    ),
    (
        "bread",
        "A goose came by and grabbed the bread",
        "laughed and let it have the bread, because it was so hungry",
        "The goose honked and brought them a white feather",
    ),
    (
        "nuts",
        "A squirrel ran down a tree and stole the nuts",
        "put one grape after another on the grass until it came closer",
        "In the end, it ate from their {hero.hand}s",
    ),
    (
        "lemonade",
        "The bottle of lemonade fell over, and the blanket was wet",
        "hung the blanket on a branch to dry and went to a stream for water",
        "The water was clear and cold, and it tasted better than lemonade",
    ),
    (
        "eggs",
        "An egg rolled out of the basket and down the hill, and then another, and another",
        "ran after the eggs, and they slipped and rolled down the hill, too",
        "At the bottom, they lay in the soft grass and laughed",
    ),
)


def picnic(s: Story) -> None:
    s.anyone()
    s.friend()
    food, trouble, answer, result = s.pick(_PICNIC_TROUBLE)
    s.props(food=food, trouble=trouble, answer=answer, result=result)
    s.props(more=s.pick(("strawberries", "sandwiches", "tomatoes", "carrots", "cherries", "apples")))
    s.open_for_two("wanted to have a picnic", "planned a picnic", "went on a picnic", when=SUMMER)
    s.say(
        "They packed {food}, grapes and {more} in a basket.",
        "{Hero} brought {food}, and {friend} brought grapes and {more}.",
    )
    s.say(
        "They found a nice place [in the grass|under an old oak|near some flowers] and spread out a [red|soft|large] "
        "blanket.",
        "They walked along a path until they came to a sunny spot. “Here!” said {friend}. "
        "They put a blanket on the grass.",
    )
    s.maybe(
        "“I'm so hungry,” said {hero}. “[Let's eat!|I could eat an elephant!]”",
        "“What a perfect day,” said {friend}.",
        "Bees were humming, and the air smelled of flowers.",
    )
    s.par()
    s.say(
        "But then there was a problem. {trouble}!",
        "Suddenly, {friend} cried, “Oh no!” {trouble}.",
        "It was not perfect for long. {trouble}.",
    )
    s.say(
        "“Our picnic is spoiled!” said {friend}.",
        "“What do we do now?” asked {friend}.",
        "“We should go home,” said {friend} with a long face.",
    )
    s.say(
        "“Wait,” said {hero}. “I have an idea.”",
        "“Don't be sad,” said {hero}. “We can still have fun.”",
        "But {hero} did not give up so easily.",
    )
    s.say("So they {answer}.", "They {answer}.")
    s.say("{result}.")
    s.par()
    s.maybe(
        "Then they lay on their backs and looked at the clouds. “That one is a [whale|sheep|teapot],” said {hero}.",
        "They sang all the songs that they knew, and then they [played tag|made crowns out of daisies].",
    )
    s.say(
        "“That was the best picnic ever,” said {friend}.",
        "“A picnic doesn't have to be perfect,” said {friend}. “It only has to be ours.”",
        "When the sun went down, they walked home, tired and happy.",
        "They still talk about that picnic today.",
    )


_BLOWN = (
    ("hat", "straw", "one"),
    ("scarf", "long", "one"),
    ("kite", "paper", "one"),
    ("umbrella", "yellow", "one"),
    ("balloon", "red", "one"),
    ("drawing", "new", "one"),
    ("cap", "blue", "one"),
    ("handkerchief", "white", "one"),
    ("paper plane", "white", "one"),
)
_CHASES = (
    ("over the fence", "The neighbor's dog barked at it"),
    ("across the pond", "The ducks ducked their heads"),
    ("through the market", "An old man tried to catch it with his stick"),
    ("over the roof of the school", "All the children pointed at it"),
    ("past the church", "The pigeons flew up in fright"),
    ("around the corner", "A cat jumped at it and missed"),
)
_LANDINGS = (
    ("in a tree, far too high for {him}", "a woman with a ladder", "climbed up and got it down"),
    ("in the middle of the pond", "a man in a rowboat", "rowed over and picked it up"),
    ("on the roof of a garage", "a man with a long rake", "pulled it down with the rake"),
    ("behind a locked gate", "a woman with a big bunch of keys", "opened the gate at once"),
    ("on top of a statue in the square", "an enormously tall man", "reached up and took it down"),
)


def windy_day(s: Story) -> None:
    s.child()
    (way1, sight1), (way2, sight2) = s.pick_some(_CHASES, 2)
    landing, helper, deed = s.pick(_LANDINGS)
    s.props(thing=Thing(*s.pick(_BLOWN)), way1=way1, sight1=sight1, way2=way2, sight2=sight2)
    s.props(
        landing=landing,
        helper=helper,
        help=deed,
        man="woman" if "woman" in helper else "man",
        person="she" if "woman" in helper else "he",
    )
    s.open(
        "went for a walk with {his} {thing.full}",
        "went outside with {his} {thing.full}",
        "took {his} {thing.full} for a walk",
        when=WIND,
    )
    s.maybe(
        "It was {his} favorite {thing}.",
        "{He} held it tight, because the wind was strong.",
        "“Don't let the wind take it!” {his} mom had said.",
    )
    s.say(
        "Whoosh! A gust of wind came and tore {thing.the} out of {his} {hero.hand}.",
        "All at once, the wind blew very hard, and away went {thing.the}!",
    )
    s.maybe("“Stop!” [cried|shouted] {hero}. “Come back!”", "“Hey, that's mine!” {he} shouted at the wind.")
    s.say(
        "{thing.The} flew {way1}. {sight1}. Then it flew {way2}. {sight2}.",
        "First it sailed {way1}. {sight1}. Next it danced {way2}. {sight2}.",
    )
    s.maybe(
        "{Hero} ran after it as fast as {he} could.", "{Hero} ran and jumped, but it was always a little too high."
    )
    s.par()
    s.say(
        "Finally, it came down {landing}.", "At last, the wind stopped for a moment, and {thing.the} landed {landing}."
    )
    s.maybe(
        "{Hero} could not reach it. {He} was close to tears.",
        "“Now I will never get it back,” said {hero}.",
        "{Hero} stretched out {his} arms, but it was no use.",
    )
    s.say(
        "Then {he} saw {helper}. “Excuse me,” {he} said. “Could you please help me?”",
        "Luckily, {helper} came along. “Is that yours?” asked the {man}. {Hero} nodded.",
    )
    s.say("“No problem,” said the {man}. {Person} {help}.", "The {man} smiled. {Person} {help}.")
    s.par()
    s.say(
        "“Here you are. The wind is a thief today!” said the {man}.",
        "“Hold it tight on a day like this,” said the {man}.",
    )
    s.say("“Thank you very much!” said {hero}.", "{Hero} thanked the {man} three times.")
    s.say(
        "{Hero} held {thing.the} with both {hero.hand}s all the way home.",
        "“You naughty wind,” said {hero}, but {he} was laughing.",
        "At home, {hero} put it [on a hook|in a drawer|on {his} bed] and told {his} mom about the chase.",
        "The wind whistled as if it were laughing, too.",
    )


def autumn_leaves(s: Story) -> None:
    s.child()
    s.grandparent("helper")
    s.props(guest=s.pick(("hedgehog", "toad", "field mouse", "turtle")))
    s.open(
        "helped {helper} with the leaves in the yard",
        "was raking leaves with {helper}",
        "went out to rake the leaves with {helper}",
        when=AUTUMN,
    )
    s.say(
        "There were yellow leaves, red leaves and brown leaves. Soon there was a giant pile.",
        "They raked and raked until there was a pile of leaves as tall as {hero}.",
    )
    s.say(
        "“May I jump into it?” asked {hero}. “Not before we're done,” said {helper}.",
        "{Hero} could not wait to jump into it.",
    )
    s.say(
        "When the last leaf was on the pile, {hero} took a few steps back. One, two, three!",
        "At last, the work was done. {Hero} was ready to run and jump.",
    )
    s.say(
        "But then the pile moved. “Stop!” said {helper}.",
        "But just then, {hero} heard a rustle in the pile. {He} stopped.",
    )
    s.par()
    s.say("{Hero} knelt down and carefully moved the leaves aside.", "Slowly, they lifted a few leaves.")
    s.say(
        "There was a {guest}! It blinked at the light and yawned.",
        "In the middle of the pile sat a {guest}. It looked very sleepy.",
    )
    s.say(
        "“It wants to sleep here all winter,” said {helper}. “The leaves are its blanket.”",
        "“What is it doing here?” whispered {hero}. “It's looking for a winter bed,” said {helper}.",
    )
    s.maybe(
        "{Hero} looked at the pile. {He} really wanted to jump. But the {guest} needed a home.",
        "“But it's my pile,” said {hero}. Then the {guest} yawned again, and {he} had to smile.",
    )
    s.say(
        "“You can have it,” {hero} told the {guest}, and {he} covered it with leaves again.",
        "“Good night,” whispered {hero}. “Sleep well until spring.”",
    )
    s.par()
    s.maybe(
        "“That was kind,” said {helper}. “Come, we'll make another pile, just for jumping.”",
        "Then they raked a second pile under another tree, and {hero} jumped into it again and again.",
    )
    s.maybe(
        "All winter, {hero} never let anyone touch the pile.",
        "When it snowed, {hero} looked at the pile and thought of the {guest}.",
    )
    s.say(
        "In spring, the leaves moved, and a small head came out. “Good morning!” said {hero}.",
        "One warm day in March, the {guest} walked across the grass. It looked well and hungry.",
        "When spring came, the {guest} was gone, but there were tiny footprints by the door.",
    )


_NOSES = (
    ("carrot", ""),
    ("carrot", "old"),
    ("pepper", "red"),
    ("pinecone", "long"),
    ("stick", "crooked"),
    ("potato", "icy"),
)


def snow_day(s: Story) -> None:
    s.anyone()
    s.friend()
    s.props(nose=Thing(*s.pick(_NOSES)), hat=s.pick(("a pot", "a basket", "a bucket", "a flowerpot")))
    s.open_for_two("saw that everything was white", "ran out into the snow", "wanted to build a snowman", when=SNOW)
    s.say(
        "The roofs, the trees and the street were covered with deep snow.",
        "Snow lay on every branch, and the world was very quiet.",
    )
    s.maybe(
        "They put on their hats, scarves and [mittens|boots]. Crunch, crunch went the snow under their feet.",
        "“It's so soft!” said {friend}. {friend.He} lay down and made a snow angel.",
    )
    s.say(
        "They rolled a small ball of snow until it was huge. Then they made another one and put it on top.",
        "They rolled three big balls of snow and put them on top of each other.",
    )
    s.say(
        "They gave it two black stones for eyes, {nose.a} for a nose and {hat} for a hat.",
        "{Hero} found {nose.a} for the nose, and {friend} brought {hat} for a hat.",
    )
    s.par()
    s.say(
        "“He looks cold,” said {hero}. {He} took off {his} own scarf and put it around the snowman's neck.",
        "“Something is missing,” said {friend}. {Hero} thought about it and gave the snowman {his} scarf.",
    )
    s.say(
        "“Now he can be our guard,” said {friend}.",
        "“Hello, Mr. Snow,” said {friend}, and they both bowed.",
        "They danced around him until their noses were red.",
    )
    s.say(
        "When they were too cold, they went inside and drank hot chocolate.",
        "Then they went in and warmed their toes by the fire.",
    )
    s.par()
    s.say(
        "A week later, the sun came out, and the snowman got smaller and smaller.",
        "But after some days, it became warm. Drip, drip, drip went the snowman.",
    )
    s.maybe(
        "“He is going away,” said {hero} sadly.",
        "In the end, there was only a puddle with {nose.the} in it.",
        "The stones fell out, and then the hat fell down.",
    )
    s.say(
        "“He will be back next winter,” said {friend}. “[Snow always comes back.|He only went on vacation.]”",
        "{Hero} picked up the scarf. “Thank you, snowman,” {he} said. “See you next year!”",
        "Where the snowman had been, the first flower came out of the ground. “He left us a present,” said {friend}.",
    )
