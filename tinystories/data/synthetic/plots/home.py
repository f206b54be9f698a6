"""Plots of a day at home: toys, rain, a mess and a mistake."""

from ..story import Story
from ..words import ANY_DAY, PLAIN_LOOKS, RAIN


# The toy, what its owner was doing with it, and where it therefore is.
_LOST = (
    ("ball", "I was kicking it near the fence", "in the tall grass by the fence"),
    ("toy boat", "I sailed it in the bath", "under a wet towel next to the bathtub"),
    ("teddy bear", "We had a tea party in the kitchen", "on the kitchen floor, under the table"),
    ("doll", "I took it for a ride on the swing", "in the sand, right under the swing"),
    ("toy car", "I drove it along the window", "on the windowsill, behind a flowerpot"),
    ("drum", "I marched around the apple tree", "in the grass behind the apple tree"),
    ("whistle", "I was wearing my coat", "in the pocket of {his} coat"),
    ("yo-yo", "I was sitting on the stairs", "in a dark corner under the stairs"),
    ("toy truck", "I was digging in the sandbox", "half under the sand in the sandbox"),
    ("book", "I was reading in bed", "deep under {his} blanket"),
    ("kite", "I put it in the shed after the storm", "in the shed, between a rake and an old umbrella"),
)
_WRONG_SPOTS = (
    *("behind the door", "in the closet", "under the sofa", "on the shelf", "in the toy box", "behind the mirror"),
    *("in the laundry basket", "in every drawer", "under the rug", "behind the bookcase"),
)


def lost_toy(s: Story) -> None:
    s.anyone()
    s.parent()
    noun, memory, spot = s.pick(_LOST)
    first, second = s.pick_some(_WRONG_SPOTS, 2)
    s.props(toy=s.toy(noun), memory=memory, spot=spot, first=first, second=second)
    s.open(
        "could not find {his} {toy.full}",
        "lost {his} {toy.full}",
        "wanted to play with {his} {toy.full}, but it was gone",
        when=ANY_DAY,
    )
    s.maybe(
        "It was {his} favorite toy.",
        "{He} loved that {toy} and played with it every day.",
        "{toy.The} had been a birthday present, and {he} loved it.",
        "{He} took {toy.the} everywhere, so this was very strange.",
    )
    s.say(
        "{He} looked {first}. {He} looked {second}. [There was no {toy}|It was not there|{toy.The} was not there].",
        "First, {he} looked {first}, but {he} found only [an old sock|a button|some dust]. "
        "Then {he} looked {second}, but {he} found only [a spoon|an empty box|a crayon].",
        "“Where is my {toy}?” {he} [asked|cried]. {He} searched {first} and {second}, but it was nowhere.",
    )
    s.sad()
    s.par()
    s.say(
        "{Parent} saw {his} face. “What is the matter, my [dear|love]?” asked {parent}.",
        "“What's wrong?” asked {parent}.",
        "{Parent} came in. “Why do you look so sad?” asked {parent}.",
    )
    s.say(
        "“I can't find my {toy},” said {hero}. “I have looked [everywhere|all over the house]!”",
        "“My {toy} is gone,” said {hero}. “[I want it back!|I looked and looked.]”",
    )
    s.say(
        "“Don't worry,” said {parent}. “[When did you play with it last?|What did you do with it yesterday?]”",
        "“Let's think,” said {parent}. “Where were you when you last had it?”",
    )
    s.say(
        "{Hero} thought hard. “{memory},” [{he} said|said {hero}] slowly.",
        "{Hero} closed {his} eyes and tried to remember. “{memory}!” {he} said.",
    )
    s.par()
    s.say(
        "They went to look, and there it was, {spot}!",
        "{Hero} ran to look. There was {toy.the}, {spot}!",
        "So they looked there together. And what did they see? {toy.The} was {spot}!",
    )
    s.say(
        "“[Hooray!|Here it is!|I found it!]” [shouted|cried] {hero}.",
        "“There you are!” said {hero}, and {he} gave {toy.the} a [big |]hug.",
        "{Hero} picked it up and [laughed|smiled]. “I missed you,” {he} told {toy.the}.",
    )
    s.maybe("{He} thanked {parent} for helping {him}.", "{He} gave {parent} a [big|warm] hug, too.")
    s.say(
        "From that day on, {hero} always put {his} toys away after playing.",
        "After that, {toy.the} had its own place next to {his} bed.",
        "{Hero} learned that it is easier to find things when you stop and think.",
        "That night, {hero} fell asleep with {toy.the} in {his} arms."
        if noun in ("teddy bear", "doll", "toy car")
        else "{Hero} played with {toy.the} until it was time for [dinner|bed].",
    )


# What broke, how, and what mends it.
_BROKEN = (
    ("toy car", "fell off the table, and one of its wheels came off", "put the wheel back with a tiny screw"),
    ("wooden horse", "fell over, and one of its legs broke", "fixed the leg with strong glue"),
    (
        "teddy bear",
        "got caught on a nail, and one of its ears came off",
        "sewed the ear back on with a needle and thread",
    ),
    ("kite", "flew into a thorny bush, and the paper tore", "closed the hole with a piece of clear tape"),
    ("rag doll", "got stuck in the door, and one of its arms came off", "sewed the arm back on with strong thread"),
    ("toy boat", "hit a rock in the pond, and its sail tore", "made a new sail from an old handkerchief"),
    (
        "music box",
        "dropped on the floor and stopped playing",
        "cleaned the tiny wheels inside and added a drop of oil",
    ),
    (
        "toy robot",
        "walked slower and slower and then stopped",
        "opened a little door in its back and put in a new battery",
    ),
    ("wagon", "rolled into a tree, and its handle broke", "made a new handle out of a strong stick"),
    ("dollhouse", "tipped over, and the roof cracked", "mended the roof with a thin piece of wood and some glue"),
    (
        "toy plane",
        "crashed into the wall, and a wing snapped off",
        "glued the wing back on and tied it with string to dry",
    ),
    ("storybook", "fell into a puddle, and the pages came loose", "dried the pages and sewed them back together"),
)


def broken_toy(s: Story) -> None:
    s.anyone()
    s.grandparent()
    noun, accident, repair = s.pick(_BROKEN)
    s.props(toy=s.toy(noun), accident=accident, repair=repair)
    s.open(
        "was playing with {his} {toy.full}",
        "took out {his} {toy.full} to play",
        "was having fun with {his} {toy.full}",
    )
    s.maybe(
        "{He} was [having a good time|singing a song], and {he} was not very careful.",
        "At first, everything was fine.",
        "{He} played all [morning|by {himself}], and {he} was happy.",
    )
    s.say("Suddenly, {toy.the} {accident}.", "Then {toy.the} {accident}.", "But then {toy.the} {accident}. Oh, dear!")
    s.maybe(
        "“Oh no!” [cried|said] {hero}. “My [poor|lovely|favorite] {toy}!”",
        "“Oh no, it's broken!” {he} cried.",
        "“What have I done?” [cried|whispered] {hero}.",
    )
    s.sad()
    s.par()
    s.say(
        "{He} tried to fix it by {himself}, but {he} did not know how.",
        "{He} turned it over and looked at it from all sides, but that did not help.",
        "{He} tried and tried, but [{he} could not fix it|it was too hard for {him}].",
    )
    s.say(
        "So {he} took it to {elder}. “Can you [fix|mend] this, {elder.call}?” {he} asked.",
        "Then {he} had an idea. {He} carried {toy.the} to {elder}. “Please help me, {elder.call},” {he} said.",
        "{Elder} heard {him} crying and came to see. “Look, {elder.call},” said {hero}. “It doesn't work anymore.”",
    )
    s.say(
        "“Let me see,” said {elder}. “[Yes, I think we can fix it.|This isn't so bad.|Don't cry. We can do this.]”",
        "{Elder} [put on a pair of glasses|looked at it closely]. “We can fix this together,” said {elder}.",
    )
    s.say(
        "{Elder} {repair}. {Hero} [watched closely|helped as well as {he} could|held the lamp].",
        "They sat down [at the table|in the kitchen]. {Hero} [watched|helped], and {elder} {repair}.",
    )
    s.par()
    s.say(
        "Soon, {toy.the} was as good as new.",
        "When they were done, {toy.the} looked [even better than before|almost new].",
        "It took an hour, but then {toy.the} was [ready|fine again].",
    )
    s.maybe(
        "“Thank you, {elder.call}!” said {hero}[ and hugged {elder}|]. “You can fix anything!”",
        "“Thank you, thank you!” said {hero}.",
    )
    s.say(
        "From then on, {hero} was more careful with {his} toys.",
        "{Elder} smiled. “Next time, we'll ask for help before we cry,” said {elder}, and they both laughed.",
        "{Hero} learned that many broken things can be mended with a little time and [care|love].",
        "Now {hero} liked {toy.the} more than ever, because {he} and {elder} had fixed it together.",
    )


# The idea, how they do it, and the game.
_RAINY_GAMES = (
    (
        "Let's build a tent",
        "They hung a [big|blue|striped] blanket over two chairs and put soft pillows inside.",
        "They sat in the tent with a flashlight and told [funny|spooky|silly] stories.",
    ),
    (
        "Let's make a ship",
        "They found a huge box, cut out a round window and painted [waves|stars|fish] on the sides.",
        "They sailed across the [living room|kitchen] and looked for [whales|islands|treasure].",
    ),
    (
        "Let's put on a puppet show",
        "They made puppets out of old socks, buttons and [yarn|bits of paper].",
        "The puppets [sang songs|told jokes|danced], and then they bowed.",
    ),
    (
        "Let's start a band",
        "They took pots, pans and wooden spoons from the kitchen.",
        "They played [loud|happy] music and marched around the table. Boom, clang, bang!",
    ),
    (
        "Let's have a picnic on the floor",
        "They spread out a cloth and put [sandwiches|crackers|apple slices] and juice on it.",
        "They ate and pretended that they were sitting in [a sunny meadow|a forest|the park].",
    ),
    (
        "Let's be explorers",
        "They put on [big boots|funny hats] and drew a map of the house.",
        "They crawled through the jungle under the table and climbed over the mountain of pillows.",
    ),
    (
        "Let's bring the sun inside",
        "They took a big sheet of paper and [bright|yellow and orange] paint.",
        "They painted a huge, smiling sun and hung it on the wall. The whole room looked brighter.",
    ),
)


def rainy_day(s: Story) -> None:
    s.anyone()
    if s.chance(0.5):
        s.friend(family=True)
    else:
        s.parent("friend")
    idea, building, playing = s.pick(_RAINY_GAMES)
    s.props(idea=idea, building=building, playing=playing)
    s.open(
        "wanted to play outside, but it was too wet",
        "looked out of the window and saw only rain",
        "wanted to go to the park, but it rained and rained",
        when=RAIN,
    )
    s.maybe(
        "The rain went pitter-patter on the [window|roof], and there were puddles everywhere.",
        "The street was wet, the trees were wet, and even the birds were hiding.",
        "{He} put {his} nose against the cold glass and waited. The rain did not stop.",
    )
    s.say(
        "“I'm [so |]bored,” said {hero}. “There's nothing to do.”",
        "“I don't like rain,” {he} said. “[It spoils everything.|I want the sun back.]”",
        "“Rain, rain, go away,” {he} sang[ sadly|], but it rained [even harder|harder and harder].",
    )
    s.sad()
    s.par()
    s.say(
        "Just then, {friend.intro} came in. “{idea}!” said {friend}.",
        "But {friend.intro} had an idea. “{idea}!” said {friend}.",
        "“We don't need the sun to have fun,” said {friend.intro}. “{idea}!”",
    )
    s.maybe(
        "“How do we do that?” asked {hero}.",
        "{Hero}'s eyes grew [big|wide]. “Yes!” said {hero}.",
        "“That sounds fun,” said {hero}.",
    )
    s.say("{building}")
    s.say("{playing}")
    s.maybe(
        "“This is [great|the best game ever|better than the park]!” [shouted|said] {hero}.",
        "They laughed so much that their [bellies|tummies] hurt.",
    )
    s.par()
    s.say(
        "After a while, it grew light outside. The rain had stopped, and there was a rainbow in the sky.",
        "They were so busy that they did not see the sun come out.",
        "When they looked up again, the rain was over and the sun was shining.",
        "Outside, it rained all day, but nobody cared.",
    )
    s.say(
        "“I hope it rains again tomorrow!” said {hero}.",
        "“Rainy days can be fun, too,” said {hero}, and {friend} agreed.",
        "{Hero} smiled. Now {he} knew that a rainy day is a good day for new ideas.",
        "“Can we do it again?” asked {hero}. “[Of course|Any time]!” said {friend}.",
    )


# A game that makes the work easy.
_CLEANING_GAMES = (
    (
        "I'm a hungry train, and my toys are the passengers",
        "Choo, choo! All aboard! [Block after block|Toy after toy] rode into the box.",
    ),
    ("Let's race the clock", "{He} ran back and forth, and the clock on the wall went tick, tock, tick, tock."),
    (
        "I'm a giant, and my big mouth eats everything",
        "Yum, yum! {He} threw the socks into the basket like food into a mouth.",
    ),
    (
        "I'll sing a cleaning song",
        "{He} made up a song about socks, blocks and a lazy fox, and {he} sang it at the top of {his} voice.",
    ),
    (
        "I'll pick up everything red, then everything blue, then everything green",
        "Soon there was nothing red left on the floor, and then nothing blue, and then nothing green.",
    ),
)
_HIDDEN = ("toy dinosaur", "storybook", "magic wand", "toy train", "marble", "mitten", "paintbrush", "teddy bear")


def messy_room(s: Story) -> None:
    s.anyone()
    s.parent()
    game, play = s.pick(_CLEANING_GAMES)
    s.props(game=game, play=play, lost=s.toy(s.pick(_HIDDEN)))
    s.open(
        "could not see the floor of {his} room",
        "had a very messy room",
        "had so many things on the floor that {he} could not walk",
        when=ANY_DAY,
    )
    s.say(
        "There were blocks under the chair, socks on the lamp and [crayons|puzzle pieces|crumbs] everywhere.",
        "Toys, clothes and books lay all over the place. There was even a [shoe|sandwich|banana] on the bed.",
    )
    s.say(
        "“Please clean up your room,” said {parent}.",
        "{Parent} opened the door. “Oh, what a mess!” said {parent}. “Please put your things away.”",
        "“It's time to clean up,” said {parent}. “[Then we can go to the park.|Dinner is in an hour.]”",
    )
    s.say(
        "“I don't want to,” said {hero}. “It's [boring|too much work].”",
        "“Later,” said {hero}, and {he} went on playing.",
        "“But I can't,” said {hero}. “There are too many things!”",
    )
    s.par()
    s.say(
        "Then {he} stepped on a [block|toy car]. “Ouch!” cried {hero}. {He} hopped around on one foot.",
        "Then {he} wanted to play with {his} {lost.full}, but {he} could not find it in the mess.",
        "{He} took one step and slipped on a [crayon|sock]. Bump! Now {he} was sitting on the floor.",
    )
    s.maybe("“Maybe I should clean up after all,” {he} said.", "“This has to stop,” {he} said with a sigh.")
    s.say("Then {he} had an idea. “{game}!” {he} said.", "{Hero} thought for a moment. “I know! {game}!”")
    s.say("{play}")
    s.maybe(
        "The books went back on the shelf, and the socks went into the drawer.",
        "{He} [hung up|folded] {his} clothes and made {his} bed.",
    )
    s.say(
        "Under a pile of [shirts|blankets], {he} found {his} {lost.full}. “So that's where you were!” {he} said.",
        "And look! Behind the bed was {his} {lost.full}. “I was looking for you,” said {hero} with a laugh.",
    )
    s.par()
    s.say(
        "When {parent} came back, the room was [neat and clean|so tidy that it shone].",
        "Soon the whole floor was clean, and {parent} came to see.",
    )
    s.say(
        "“Wow!” said {parent}. “[You did a great job!|I'm proud of you.|Is this the same room?]”",
        "“Did you do this all by yourself?” asked {parent}. “It looks wonderful!”",
    )
    s.say(
        "{Hero} [smiled|felt proud]. Now there was a lot of room to play.",
        "“It was easy,” said {hero}. “I made it a game.”",
        "Then they sat down on the clean floor and [read a story|played a game|built a tower] together.",
        "From then on, {hero} put one toy away before {he} took out another.",
    )


# What was forbidden, how it happened, how it was hidden, and how it is put right.
_MISTAKES = (
    (
        "No running in the house",
        "{Hero} ran through the living room as fast as {he} could. "
        "{He} bumped into a table, and a blue vase fell and broke",
        "pushed the pieces under the rug",
        "what happened to my vase",
        "I broke the vase",
        "They glued the pieces together, one by one. The vase had a few lines now, but it could hold flowers again",
    ),
    (
        "Please don't draw on the walls",
        "{Hero} took a purple crayon and drew a huge [cat|dragon|flower] on the wall",
        "put a chair in front of the picture",
        "why is there a chair in the middle of the hall",
        "I drew on the wall",
        "They took a bucket of warm water and two sponges and washed the wall until it was white again",
    ),
    (
        "The cake is for the party",
        "{Hero} took one small bite of the cake, and then another, and another, until half of it was gone",
        "covered the plate with a napkin",
        "who ate the cake",
        "I ate half of the cake",
        "They put on their aprons and baked a new cake, and {hero} stirred the dough",
    ),
    (
        "Don't play ball near the window",
        "{Hero} kicked {his} ball as hard as {he} could. The ball hit the kitchen window. Crash",
        "ran and hid behind the shed",
        "who broke the window",
        "I kicked the ball",
        "They swept up the glass together, and {hero} gave all {his} coins to help pay for a new window",
    ),
    (
        "Please don't touch my paint",
        "{Hero} opened a jar of red paint. The jar slipped, and there was red paint all over the carpet",
        "put a big pillow on the red spot",
        "why is this pillow wet and red",
        "I spilled your paint",
        "They rubbed the carpet with soap and water until the red spot was almost gone",
    ),
    (
        "Don't pick the flowers in the garden",
        "{Hero} picked one tulip, then two, then all of them. Now the garden looked empty",
        "hid the tulips in a bucket",
        "where are all my tulips",
        "I picked your flowers",
        "They put the tulips in water, and then they planted new ones side by side",
    ),
)


def mistake(s: Story) -> None:
    s.child(PLAIN_LOOKS)
    s.parent()
    rule, accident, hiding, question, truth, repair = s.pick(_MISTAKES)
    s.props(rule=rule, accident=accident, hiding=hiding, question=question, truth=truth, repair=repair)
    s.open(
        "was bored and looked for something to do",
        "felt a little wild",
        "did not know what to play",
        when=ANY_DAY,
    )
    s.say(
        "“{rule},” {parent} had told {him}[ more than once|].",
        "“{rule},” {parent} had said [at breakfast|that morning].",
    )
    s.maybe(
        "But {hero} [forgot|did not listen].",
        "{Hero} knew that very well. But {he} did it all the same.",
        "But the rule slipped {his} mind.",
    )
    s.say("{accident}!")
    s.maybe(
        "“Oh no,” {he} whispered. “[Now I'm in trouble.|What do I do now?|What have I done?]”",
        "{Hero} stood still. {His} face turned [red|white].",
    )
    s.say("{Hero} was afraid, so {he} {hiding}.", "{He} did not want anyone to know. Quickly, {he} {hiding}.")
    s.par()
    s.say(
        "When {parent} came back, {parent.he} looked around. “{hero.call}, {question}?”",
        "Soon {parent} called, “{hero.call}, {question}?”",
    )
    s.say(
        "“I don't know,” said {hero}. But it was a lie, and {he} felt bad inside.",
        "{Hero} looked at {his} feet. “Maybe the [cat|dog] did it,” {he} said.",
    )
    s.maybe(
        "At dinner, {he} could not eat. {His} tummy hurt.",
        "{He} went to {his} room, but {he} could not play. The lie was like a stone in {his} shoe.",
        "All afternoon, {hero} felt worse and worse.",
    )
    s.say(
        "At last, {he} went to {parent}. “It was me,” {he} said. “{truth}. I'm [so|very] sorry.”",
        "Finally, {he} could not stand it anymore. “{parent.call}, I told a lie,” {he} said. “{truth}. I'm sorry.”",
    )
    s.par()
    s.say(
        "{Parent} [was quiet for a moment|sat down next to {him}]. "
        "“I'm not happy about it,” said {parent}, “but I'm glad that you told me the truth.”",
        "“Thank you for telling me,” said {parent}. “Everyone makes mistakes. It takes courage to say so.”",
        "{Parent} hugged {him}. “It is hard to tell the truth, and you did it,” said {parent}.",
    )
    s.maybe("“Can I help to make it right?” asked {hero}.", "“How can I make it better?” asked {hero}.")
    s.say("{repair}.")
    s.say(
        "{Hero} felt as light as a feather again.",
        "That night, {hero} slept well, because {he} had no more lies to hide.",
        "From that day on, {hero} told the truth right away.",
        "After that, {hero} listened to {parent}, most of the time.",
    )
