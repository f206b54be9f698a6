"""Plots in the neighborhood: a puppy, a kitten, an old neighbor, a stand and a market."""

from ..grammar import Thing
from ..story import Story
from ..words import AUTUMN, DAY, SNOW, SUMMER


_PUPPY_TRICKS = (
    ("chewed on a slipper", "Give it a bone to chew", "It left the slippers alone after that"),
    (
        "pulled the laundry off the line",
        "Throw it a stick when it wants to play",
        "It loved the stick more than any sock",
    ),
    (
        "barked all night long",
        "Put a ticking clock next to its bed",
        "The clock sounded like its mother's heart, and it slept well",
    ),
    (
        "dug a hole in the flower bed",
        "Give it its own place to dig",
        "It dug and dug behind the shed, and the flowers were safe",
    ),
    ("ran away when somebody called it", "Give it a treat every time it comes", "Soon it came as fast as an arrow"),
)


def new_puppy(s: Story) -> None:
    s.child()
    s.parent()
    s.neighbor()
    mischief, advice, result = s.pick(_PUPPY_TRICKS)
    s.props(mischief=mischief, advice=advice, result=result)
    s.props(
        puppy=s.thing("puppy", ("small", "tiny", "fluffy", "little"), ("brown", "white", "black", "gray", "spotted"))
    )
    s.props(pet=s.pick(("Biscuit", "Button", "Pepper", "Cookie", "Waffle", "Noodle", "Muffin", "Pickle")))
    s.open("got {puppy.a}", "was allowed to have {puppy.a}", "brought home {puppy.a}")
    s.say(
        "{He} named it {pet}. {pet} had floppy ears and a wet nose.",
        "“I will call you {pet},” {he} said, and the puppy wagged its tail.",
    )
    s.say(
        "{pet} was very sweet. But it was also very naughty.",
        "{Hero} loved {pet}, but it was not easy to have a puppy.",
    )
    s.say(
        "It {mischief}. “No, {pet}!” cried {hero}.",
        "On the first day, it {mischief}. On the second day, it did it again.",
    )
    s.say(
        "“Bad dog,” said {parent}. “If this goes on, we can't keep it.”",
        "{Parent} was not pleased. “You have to teach it,” said {parent}.",
    )
    s.sad()
    s.par()
    s.say(
        "Then {hero} went to see {neighbor.intro}, who knew a lot about dogs.",
        "{Hero} asked {neighbor.intro}, for help. {Neighbor} had three big dogs.",
    )
    s.say(
        "“{pet} isn't bad. It's only young,” said {neighbor}. “{advice}.”",
        "“All puppies do that,” said {neighbor}. “{advice}, and be patient.”",
    )
    s.maybe(
        "{Hero} did just that. At first, nothing changed.", "{Hero} ran home and tried it. {He} tried it every day."
    )
    s.say("After a week, {pet} was a different dog. {result}.", "Little by little, {pet} learned. {result}.")
    s.par()
    s.say(
        "“Good dog!” said {hero}, and {pet} licked {his} face.",
        "{Parent} was surprised. “What a good puppy,” said {parent}, and scratched {pet} behind the ears.",
    )
    s.say(
        "That night, {pet} slept at the foot of {hero}'s bed.",
        "From then on, {hero} and {pet} went everywhere together.",
        "{Hero} was proud of {pet}, and {pet} was proud of {hero}.",
    )


def stuck_kitten(s: Story) -> None:
    s.child()
    s.pick((s.grandparent, s.parent))("helper")
    s.props(
        kitten=s.thing(
            "kitten", ("small", "tiny", "little", "fluffy"), ("gray", "orange", "white", "black", "striped")
        )
    )
    s.props(tempting=s.pick(("a bowl of milk", "a piece of fish", "a ball of yarn", "some ham")))
    s.open("heard a sad sound", "heard a tiny voice above {him}", "was playing outside and heard a meow")
    s.say(
        "“Meow, meow!” {He} looked up. High in a tree sat {kitten.a}.",
        "It came from a tall tree. On a branch sat {kitten.a}.",
    )
    s.say(
        "It had climbed up, but it was too afraid to climb down.",
        "It was holding on to the branch with all its claws, and it was shaking.",
    )
    s.maybe(
        "“Come down, little one,” called {hero}, but the kitten only cried.",
        "“Don't be scared,” {he} said. “I will help you.”",
    )
    s.say(
        "{He} put {tempting} under the tree. The kitten looked down, but it did not move.",
        "{Hero} tried to climb the tree, but the lowest branch was too high.",
        "{He} held out {his} arms. “Jump! I will catch you!” The kitten did not jump.",
    )
    s.maybe(
        "It was getting [cold|dark], and the wind shook the branch.",
        "A crow landed near the kitten and cawed at it. The kitten was terrified.",
    )
    s.par()
    s.say(
        "“I can't do this alone,” {he} said, and {he} ran home to get {helper}.",
        "So {he} ran to {helper}. “Come quickly! A kitten is stuck in a tree!”",
    )
    s.say(
        "{Helper} brought a ladder and leaned it against the tree. “Hold it tight,” said {helper}.",
        "They carried the long ladder together. {Hero} held it while {helper} climbed up.",
    )
    s.maybe(
        "Up went {helper}, step by step. The kitten hissed at first.",
        "{Helper} climbed up slowly and spoke in a soft voice.",
    )
    s.say(
        "At last, the kitten was safe inside {helper}'s jacket.",
        "Very gently, {helper} picked up the kitten and brought it down.",
    )
    s.par()
    s.maybe(
        "{Hero} took it in {his} arms. Its little heart was beating fast.",
        "{Hero} wrapped it in {his} sweater. Soon it stopped shaking.",
    )
    if s.chance(0.5):
        s.say(
            "Then a girl came running. “That's my kitten!” she cried. “Thank you for saving it!”",
            "An old man came down the street. “There you are!” he said to the kitten. “I looked for you all day.”",
        )
        s.say(
            "{Hero} was sorry to say goodbye, but {he} was happy for the kitten.",
            "“You can visit it any time,” {hero} heard, and {he} did, every week.",
        )
    else:
        s.say(
            "They asked everyone on the street, but nobody knew whose kitten it was.",
            "“Does it have a home?” asked {hero}. Nobody knew.",
        )
        s.say(
            "“May we keep it?” asked {hero}. “[Yes|All right],” said {helper}. "
            "{Hero} named it [Button|Leaf|Acorn|Cloud|Ladder].",
            "So it stayed with {hero}. It never climbed that tree again.",
        )


_CHORES = (
    ("carry a heavy bag of potatoes", "carried the bag up the stairs, one step at a time"),
    ("wash the windows", "washed nine windows until they shone"),
    ("rake the leaves", "raked the yard until not one leaf was left"),
    ("find a pair of lost glasses", "looked everywhere and found the glasses in the refrigerator"),
    ("shovel the snow", "shoveled a path all the way to the gate"),
    ("paint an old fence", "painted every board, and a little of {his} own nose, too"),
    ("pick the apples from a tall tree", "climbed up and filled four baskets with apples"),
    ("feed nine hungry cats", "filled nine bowls and petted nine cats"),
)
_THANKS = (
    ("gave {him} a slice of warm apple pie", "It was the best pie that {he} had ever eaten"),
    ("gave {him} an old, shiny medal", "{Hero} wore it every day for a week"),
    ("told {him} a story about the old days", "It had pirates in it, and it was almost true"),
    ("gave {him} a pot with a tiny plant in it", "{Hero} put it on {his} windowsill and watered it every morning"),
    ("played a song on an old accordion", "The music was so merry that they both danced"),
)


def helping(s: Story) -> None:
    s.child()
    s.neighbor()
    s.parent()
    task, deed = s.pick(_CHORES)
    thanks, more = s.pick(_THANKS)
    s.props(task=task, deed=deed, thanks=thanks, more=more)
    s.open(
        "met {neighbor.intro}",
        "saw {neighbor.intro}, in front of {neighbor.his} house",
        "looked over the fence and saw {neighbor.intro}",
        when=SNOW if "snow" in task else AUTUMN if "leaves" in task or "apples" in task else DAY,
    )
    s.maybe(
        "{Neighbor} was very old and walked with a stick.",
        "{Neighbor} had white hair and a bent back.",
        "{Neighbor} lived alone, and nobody ever came to visit.",
    )
    s.say(
        "{Neighbor} wanted to {task}, but it was too hard.",
        "“I have to {task},” said {neighbor}, “but my back hurts so much.”",
    )
    s.say(
        "{Hero} was on {his} way to the playground. {His} friends were waiting.",
        "{Hero} wanted to go and play. But {neighbor} looked so tired.",
    )
    s.say("“I can help you,” {he} said.", "“Let me do it,” said {hero}. “I'm strong!”")
    s.par()
    s.say("So {hero} {deed}. It took the whole afternoon.", "{He} rolled up {his} sleeves. {He} {deed}.")
    s.maybe(
        "{Neighbor} sat on a chair and watched. “You are a hard worker,” said {neighbor}.",
        "They talked and laughed, and the time flew by.",
    )
    s.say(
        "When it was done, {neighbor} {thanks}. {more}.",
        "“Wait, I want to thank you,” said {neighbor}, and {neighbor.he} {thanks}. {more}.",
    )
    s.par()
    s.say(
        "At home, {hero} told {parent} about it. “I missed the game,” {he} said, “but I had a good day.”",
        "“Where were you?” asked {parent}. “I was helping {neighbor},” said {hero}.",
    )
    s.say(
        "“I'm proud of you,” said {parent}.",
        "From then on, {hero} visited {neighbor} every week, and {neighbor} was not lonely anymore.",
        "That night, {hero} was tired, but {he} felt warm inside.",
        "The next day, {his} friends came, too, and everyone helped.",
    )


_STANDS = (
    ("lemonade", "mixed lemons, sugar and cold water"),
    ("apple juice", "pressed a whole basket of apples"),
    ("strawberry milk", "stirred fresh strawberries into cold milk"),
    ("iced tea", "made tea and put in some ice and mint"),
)
_PLANS = (
    ("Let's paint a big, bright sign", "They painted a sign in five colors and hung it on a tree"),
    ("Let's move to the corner by the park", "They carried the table to the corner, where many people walked by"),
    ("Let's sing a song about it", "They sang as loudly as they could, and people turned around and smiled"),
    ("Let's give the first cup away", "They gave a cup to a runner. “Delicious!” he shouted, and others came to see"),
)


_GOOD_CAUSES = ("animal shelter", "bird hospital", "old people's home", "children's hospital", "school library")


def drink_stand(s: Story) -> None:
    s.child()
    s.friend()
    drink, making = s.pick(_STANDS)
    plan, result = s.pick(_PLANS)
    s.props(
        drink=drink,
        making=making,
        plan=plan,
        result=result,
        animals=s.pick(_GOOD_CAUSES),
    )
    s.open_for_two(
        "wanted to earn some money", "decided to sell {drink}", "had the idea of selling {drink}", when=SUMMER
    )
    s.say(
        "“We can sell {drink} and give the money to the {animals},” said {hero}.",
        "They wanted to give the money to the {animals}.",
    )
    s.say(
        "They {making}. Then they put a table in front of the house and waited.",
        "First, they {making}. Next, they set up a table with a white cloth and twenty cups.",
    )
    s.say(
        "One hour went by. Nobody came.",
        "A man walked by, and then a woman, but nobody stopped.",
        "Only a bee came, and it did not have any money.",
    )
    s.maybe("“Maybe nobody is thirsty,” said {friend} sadly.", "“It's no use,” said {friend}. “Let's go home.”")
    s.par()
    s.say(
        "{Hero} did not want to give up. “{plan}!” {he} said.",
        "“Don't give up,” said {hero}. “I have an idea. {plan}!”",
    )
    s.say("{result}.")
    s.maybe(
        "Soon there was a long line. “One cup, please!” “Two for us!”",
        "The mail carrier came, and the baker came, and a whole football team came.",
    )
    s.say(
        "{Hero} poured, and {friend} took the coins. By the evening, the jug was empty.",
        "They sold one cup after another until there was not a drop left.",
    )
    s.par()
    s.say(
        "They counted the coins. There were more than fifty!",
        "Their jar of coins was so heavy that they had to carry it together.",
    )
    s.say(
        "At the {animals}, everyone thanked them.",
        "“We did it!” they said, and they were tired and happy.",
        "The next day, they brought the money to the {animals}. It was a proud moment.",
        "“And now I'm thirsty,” said {friend}. But there was only water left, and they laughed.",
    )


_SIGHTS = (
    ("juggler", "throwing six oranges into the air"),
    ("puppet show", "in front of the fountain"),
    ("parrot", "on a man's shoulder"),
    ("cage", "with soft rabbits in it"),
    ("toy train", "going round and round on a table"),
    ("clown", "on a tiny bicycle"),
)


def lost_at_market(s: Story) -> None:
    s.child()
    s.parent()
    sight, more = s.pick(_SIGHTS)
    s.props(sight=Thing(sight), more=more, color=s.pick(("red", "green", "yellow", "blue", "purple")))
    s.props(wear=s.pick(("coat", "jacket", "sweater", "hat")))
    s.props(seller=s.pick(("fruit", "flower", "cheese", "fish", "honey")))
    s.open(
        "went to the market with {parent}",
        "was shopping with {parent} at the market",
        "went to the fair with {parent}",
    )
    s.maybe(
        "“Stay close to me,” said {parent}. “There are so many people here.”",
        "There were lots of people, colors and smells. {Hero} held {parent}'s hand.",
    )
    s.say(
        "Then {hero} saw {sight.a} {more}. {He} stopped to look.",
        "Suddenly, there was {sight.a} {more}! {Hero} let go of {parent}'s hand.",
    )
    s.say(
        "When {he} turned around again, {parent} was gone.",
        "{He} looked for only a minute. But when {he} looked up, {he} could not see {parent} anywhere.",
    )
    s.say(
        "{Parent} was wearing a {color} {wear}, but {hero} saw only strange hats and coats and bags.",
        "{He} looked for {parent}'s {color} {wear}. {He} saw a man in gray and a woman in black, but no {color} "
        "{wear}.",
    )
    s.par()
    s.say(
        "{Hero} was frightened. {He} wanted to run and search, but then {he} remembered something.",
        "{His} lips began to tremble. Then {he} remembered {parent}'s words.",
    )
    s.say(
        "“If you get lost, stand still,” {parent} had told {him}. “I will find you.”",
        "“When you are lost, don't run around,” {parent} always said. “Stay where you are, and ask for help.”",
    )
    s.say("So {hero} stood still next to the {seller} stand. “Please, I'm lost,” {he} said to the woman there.")
    s.maybe(
        "“What does your {parent.kind} look like?” asked the woman. "
        "“{parent.He} is wearing a {color} {wear},” said {hero}.",
        "“Don't be afraid,” said the woman. “We'll wait together.” She gave {him} a [chair|stool] to stand on.",
    )
    s.say(
        "She rang a bell and called, “Who has lost a {hero.kind} named {hero}?”",
        "The woman called out in a loud voice, “{hero} is here! {hero} is here!”",
    )
    s.par()
    s.say(
        "Soon {he} saw a {color} {wear} in the crowd. It was {parent}!",
        "A minute later, {parent} came running through the crowd.",
    )
    s.maybe(
        "{Parent} held {him} very tight. “I was so worried!” said {parent}.",
        "“There you are!” said {parent}, and they hugged for a long time.",
    )
    s.maybe(
        "“I stood still, just as you told me,” said {hero}. “[That was very clever|You did everything right],” said "
        "{parent}.",
        "“I'm sorry that I let go,” said {hero}. “I'm proud that you asked for help,” said {parent}.",
    )
    s.say(
        "They thanked the woman and bought something from her stand.",
        "After that, {hero} held {parent}'s hand until they were home.",
        "Then they went to see {sight.the} together.",
    )
