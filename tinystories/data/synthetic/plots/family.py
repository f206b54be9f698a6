"""Plots about families: baking, birthdays, babies and presents."""

from ..grammar import Thing
from ..story import Story
from ..words import ANY_DAY, MORNING


_BAKES = (
    ("cake", "chocolate", "one", ("eggs", "flour", "butter")),
    ("pie", "apple", "one", ("butter", "sugar", "flour")),
    ("cookies", "ginger", "many", ("sugar", "butter", "honey")),
    ("rolls", "cinnamon", "many", ("butter", "milk", "flour")),
    ("muffins", "blueberry", "many", ("eggs", "sugar", "milk")),
    ("bread", "sweet", "mass", ("flour", "butter", "honey")),
    ("cake", "carrot", "one", ("eggs", "sugar", "flour")),
    ("biscuits", "crispy", "many", ("flour", "butter", "milk")),
)


def baking(s: Story) -> None:
    s.anyone()
    s.grandparent()
    if s.hero_is_child():
        s.neighbor()
    else:
        s.friend(role="neighbor")
    noun, kind, number, needs = s.pick(_BAKES)
    s.props(treat=Thing(noun, kind, number), need=s.pick(needs))
    s.open(
        "wanted to bake {treat.a}",
        "wanted to make {treat.a} with {elder}",
        "was hungry for {treat.full}",
        when=ANY_DAY,
    )
    s.say(
        "“Can we bake {treat.a}, {elder.call}?” {he} asked. “What a good idea!” said {elder}.",
        "“Will you help me, {elder.call}?” {he} asked. {Elder} put on an apron and smiled. “Of course.”",
    )
    s.maybe(
        "They took out a big bowl, a wooden spoon and [a scale|a cup|two pans].",
        "First, they washed their {hero.hand}s. Then they looked for everything that they needed.",
        "{Hero} climbed on a stool and opened the cupboard.",
    )
    s.say(
        "But there [was a problem|was one thing missing]. They had no {need}!",
        "“Uh-oh,” said {elder}. “We don't have any {need}.”",
    )
    s.maybe(
        "“We can't bake without {need},” said {hero} sadly.",
        "{Hero} looked in every cupboard, but there was no {need} anywhere.",
    )
    s.par()
    s.say("Then {he} thought of {neighbor.intro}.", "{Elder} told {him} to ask {neighbor.intro}.")
    s.say("{Hero} ran next door and knocked. Knock, knock!", "{Hero} ran over and rang the bell. Ding-dong!")
    s.say(
        "“Good morning,” said {hero}. “May I please have some {need}? We're baking!”",
        "“Could you give us some {need}, please?” asked {hero}. “It's for our {treat.full}.”",
    )
    s.say(
        "“Of course,” said {neighbor}. “[Take all you need.|I have plenty.|Here you are.]”",
        "{Neighbor} went to the kitchen and came back with some {need}. “Here you are,” said {neighbor}.",
    )
    s.say(
        "“Thank you!” said {hero}, and {he} ran home as fast as {he} could.", "{Hero} said thank you and hurried back."
    )
    s.par()
    s.say(
        "Now they could start. {Hero} stirred and stirred. There was flour on {his} nose.",
        "They mixed everything in the bowl. {Hero} licked the spoon when {elder} was not looking.",
        "{Elder} measured, and {hero} stirred. “Round and round we go,” {he} sang.",
    )
    s.maybe(
        "Soon, the whole house smelled [wonderful|sweet and warm].",
        "Then they had to wait. It was hard to wait, because it smelled so good.",
        "When {treat.the} {treat.was} ready, {treat.they} smelled delicious.",
    )
    s.say(
        "{Hero} put some on a plate. “This is for {neighbor},” {he} said, and {he} took it next door.",
        "“Let's share with {neighbor},” said {hero}. They called {neighbor.him}, and all three ate together.",
    )
    s.say(
        "{treat.The} {treat.was} warm and sweet, and everyone wanted more.",
        "It was the best {treat.full} in the world."
        if number != "many"
        else "They were the best {treat} in the world.",
        "“Food tastes better when you share it,” said {elder}.",
        "“Mmm,” said {neighbor}. “[Please run out of {need} again soon!|You are great bakers!]”",
    )


_GIFTS = (
    ("scooter", "rode it up and down the path until it was dark"),
    ("kite", "flew it high over the trees"),
    ("drum", "played it so loudly that everyone covered their ears and laughed"),
    ("toy train", "let it run round and round the table"),
    ("paint box", "painted a picture of all {his} friends"),
    ("puzzle", "put it together with everyone's help"),
    ("sled", "dreamed of snow all night"),
    ("jump rope", "jumped twenty times in a row"),
)


def birthday(s: Story) -> None:
    s.anyone()
    s.friend()
    s.parent()
    noun, playing = s.pick(_GIFTS)
    s.props(gift=s.new_toy(noun), playing=playing, age=s.pick(("four", "five", "six", "seven")))
    s.open(
        "woke up and remembered that it was {his} birthday",
        "jumped out of bed because it was {his} birthday",
        "was very excited because it was {his} birthday",
        likes=(
            "{He} liked cake, balloons and presents.",
            "{He} had waited for one special day all year.",
            "{He} had been counting the days.",
            "{He} loved parties more than anything.",
        ),
        when=MORNING,
    )
    s.maybe(
        "“Today I am {age} years old!” {he} said[ to the mirror| proudly|].",
        "{He} was {age} years old now, and {he} felt [very big|an inch taller].",
    )
    s.say(
        "{He} ran to {parent}. “Do you know what day it is?” {he} asked. "
        "“It's [Tuesday|Thursday],” said {parent}, and that was all.",
        "But at breakfast, {parent} only said, “Good morning. Eat your [toast|oatmeal|porridge].”",
    )
    s.say(
        "Then {hero} went to see {friend.intro}. “Sorry, I can't play today. "
        "I'm busy,” said {friend}[ and closed the door|].",
        "Then {hero} met {friend.intro}. {friend.He} was carrying a big bag. "
        "“I'm in a hurry,” {friend.he} said. “Bye!”",
    )
    s.say(
        "“Nobody remembers my birthday,” thought {hero}.", "“They have all forgotten,” said {hero} in a small voice."
    )
    s.sad()
    s.par()
    s.say(
        "{He} walked around alone all afternoon. When the sun went down, {he} went home.",
        "{He} sat under a tree for a long time and [threw stones|counted ants]. Then {he} walked slowly home.",
    )
    s.say(
        "The house was dark. {Hero} opened the door.",
        "It was very quiet, and there was no light in the window. {Hero} went in.",
    )
    s.say(
        "“Surprise!” shouted everyone. The lights went on, and there were balloons and [paper stars|ribbons|flags] "
        "everywhere.",
        "Suddenly, all the lights went on. “Surprise! Happy birthday!” they shouted.",
    )
    s.say(
        "{Friend} was there, and {parent} was holding a cake with {age} candles.",
        "{Parent} brought in an enormous cake, and {friend} started to sing.",
    )
    s.maybe(
        "“We didn't forget,” said {parent}. “We were getting everything ready!”",
        "“I was so busy because I was blowing up balloons,” said {friend}.",
    )
    s.par()
    s.maybe(
        "{Hero} blew out the candles and made a wish.",
        "{Hero} laughed and cried at the same time.",
        "{Hero} took a deep breath and blew out all the candles at once.",
    )
    s.say(
        "Then {hero} opened {his} present. It was {gift.a}!",
        "{Friend} gave {him} a box with a bow. Inside was {gift.a}.",
    )
    s.say("{He} {playing}.", "“It's just what I wanted!” {he} said. {He} {playing}.")
    s.say(
        "It was the best birthday ever.",
        "“Thank you, everyone,” {he} said before {he} went to bed. “I will never forget this day.”",
        "That night, {hero} thought, “It's nice to get a present, but it's nicer to have friends.”",
    )


_LULLABIES = (
    ("shook a rattle", "The baby cried even louder"),
    ("held up a teddy bear", "The baby pushed it away"),
    ("brought a bottle of milk", "The baby did not want it"),
    ("rocked the cradle", "The baby kicked off the blanket"),
    ("wound up the music box", "The baby did not even listen"),
)
_FUNNY = (
    "put a sock on {his} nose and said, “Moo!”",
    "hid {his} face, and then {he} cried, “Peekaboo!”",
    "sneezed. It was a very loud sneeze. “Achoo!”",
    "put an empty bowl on {his} head like a hat.",
    "danced around the room like a silly duck.",
    "slipped on a towel and sat down with a bump.",
)


def new_baby(s: Story) -> None:
    s.child()
    s.parent()
    (first, answer), (second, answer2) = s.pick_some(_LULLABIES, 2)
    s.props(first=first, answer=answer, second=second, answer2=answer2, funny=s.pick(_FUNNY))
    s.props(baby="sister" if s.chance(0.5) else "brother")
    s.open(
        "got a new baby {baby}",
        "had a new baby {baby} at home",
        likes=(
            "{He} had always wanted a baby in the family.",
            "{He} was an only child, and {he} sometimes felt lonely.",
            "{He} had often wished for a bigger family.",
            "{He} liked to help at home, and {he} was very gentle.",
        ),
    )
    s.maybe(
        "“Now we can play together,” {he} thought.",
        "{Hero} brought all {his} toys. “Let's play!” {he} said to the baby.",
    )
    s.say(
        "But the baby could not play. It only slept, drank milk and cried.",
        "But the baby was so small that it could not even sit. And it cried a lot.",
    )
    s.say(
        "{Parent} was always busy with the baby, and {hero} felt left out.",
        "Everybody looked at the baby, and nobody looked at {hero}.",
    )
    s.par()
    s.say(
        "One evening, the baby cried and cried. {Parent} was very tired.",
        "Then, one afternoon, {parent} was so tired that {parent.he} fell asleep on the sofa. The baby began to cry.",
    )
    s.maybe("“Let me try,” said {hero}.", "“Shh,” said {hero}. “I'm here.”", "“I will take care of you,” said {hero}.")
    s.say(
        "{Hero} {first}. {answer}. {He} {second}. {answer2}.",
        "First, {hero} {first}. {answer}. Then {he} {second}. {answer2}.",
    )
    s.say("{Hero} did not know what else to do. Then {he} {funny}", "{Hero} almost gave up. But then {he} {funny}")
    s.say(
        "The baby stopped crying. It looked at {him} with big eyes. Then it laughed!",
        "Suddenly, the baby was quiet. And then came a tiny laugh.",
    )
    s.par()
    s.say(
        "{Parent} [woke up|looked up] and smiled. “You did that?” said {parent}. “You're wonderful with the baby!”",
        "“Did you hear that?” cried {parent}. “That was the baby's very first laugh, and it was for you!”",
    )
    s.maybe("The baby held {hero}'s finger and did not let go.", "{Hero} did it again, and the baby laughed again.")
    s.say(
        "{Hero} did not feel left out anymore. {He} had an important job.",
        "“We'll be good friends,” {hero} told the baby. “I'll teach you everything.”",
        "Now {hero} knew that there was enough love for everyone.",
        "From then on, when the baby cried, everybody called for {hero}.",
    )


_PRESENTS = (
    ("necklace", "threaded red and blue beads on a string, one by one"),
    ("card", "drew hearts and flowers on it and wrote “I love you” inside"),
    ("scarf", "knitted and knitted, and it got longer and longer"),
    ("birdhouse", "nailed some boards together and painted them yellow"),
    ("picture frame", "glued shells and buttons all around it"),
    ("clay bowl", "rolled and pressed the clay until it was round"),
    ("apron", "printed {his} own {hero.hand}s on it in five colors"),
    ("pillow", "sewed it with big stitches and stuffed it with wool"),
)


def secret(s: Story) -> None:
    s.anyone()
    s.parent()
    s.grandparent()
    gift, making = s.pick(_PRESENTS)
    s.props(gift=Thing(gift), making=making)
    s.props(
        hidden=s.pick(
            ("under {his} bed", "in the shed", "behind a row of books", "in an old boot", "in a basket of socks")
        )
    )
    s.open(
        "wanted to make a birthday present for {parent}",
        "decided to make a present for {parent}'s birthday",
        when=ANY_DAY,
    )
    s.say(
        "It was going to be {gift.a}, and only {elder} knew about it.",
        "“I'm going to make {gift.a},” {he} told {elder}. “Please don't tell anyone!”",
    )
    s.say(
        "Every day, {hero} went to {elder}'s room and worked. {He} {making}.",
        "It was not easy. {Hero} {making}. {Elder} helped a little.",
    )
    s.maybe(
        "“What are you doing in there?” asked {parent}. “Nothing,” said {hero}, and {he} turned pink.",
        "“You look very busy,” said {parent}. {Hero} bit {his} lip and smiled.",
    )
    s.par()
    s.maybe(
        "It is hard to keep a secret. It tickled on {hero}'s tongue all day.",
        "At dinner, {hero} opened {his} mouth to tell. {Elder} coughed loudly, and {he} closed it again.",
    )
    s.say(
        "{Hero} hid the present {hidden} so that nobody would find it.",
        "Once, {parent} came in without knocking. Quick as a flash, {hero} hid {gift.the} {hidden}.",
    )
    s.maybe(
        "“Three more days,” {he} whispered. “Two more days. One more day!”",
        "At night, {he} told the secret to {his} pillow, because pillows don't talk.",
    )
    s.par()
    s.say(
        "Finally, the birthday came. {Hero} was up before the sun.",
        "Then the big day was here. {Hero} ran into the room and shouted, “Happy birthday!”",
    )
    s.say(
        "“This is for you,” {he} said. {Parent} opened the paper, and there was {gift.the}.",
        "{He} put the present in {parent}'s lap. {Parent} opened it and saw {gift.the}.",
    )
    s.say(
        "“You made this yourself?” asked {parent}. “It's [beautiful|perfect|lovely]!”",
        "{Parent} could not speak for a moment. “It's the best present that I have ever had.”",
    )
    s.maybe(
        "“I kept it a secret,” said {hero} proudly. “It was so hard!”",
        "“Did you know?” asked {hero}. “I had no idea,” said {parent}.",
    )
    s.say(
        "{Elder} smiled and said nothing. {elder.He} was good at secrets, too.",
        "{Parent} showed it to everyone in the family.",
        "Some secrets are good, because they end with a hug.",
    )


def loose_tooth(s: Story) -> None:
    s.child()
    s.parent()
    s.friend()
    s.props(food=s.pick(("an apple", "a carrot", "a pear", "a piece of toast", "an oatmeal cookie")))
    s.open(
        "found out that {he} had a loose tooth",
        "noticed that one of {his} teeth was loose",
        "felt something strange in {his} mouth",
        when=ANY_DAY,
    )
    s.maybe(
        "When {he} pushed the tooth with {his} tongue, it moved.", "The tooth wobbled back and forth, back and forth."
    )
    s.say(
        "“{parent.call}, my tooth is falling out!” {he} cried. “Is that bad?”",
        "“Will it hurt?” {he} asked {parent}. {He} was a little afraid.",
    )
    s.say(
        "“That's good news,” said {parent}. “It means that you're growing up.”",
        "“Don't worry,” said {parent}. “A bigger tooth is waiting to come out.”",
    )
    s.say(
        "All week, {hero} ate only soup and bananas, because {he} was afraid to bite.",
        "{Hero} did not dare to chew. {He} ate yogurt for breakfast and soup for dinner.",
    )
    s.par()
    s.maybe(
        "At school, {friend.intro} showed {him} a gap. “Mine is out already,” said {friend}. “It was easy!”",
        "“Pull it out with a string,” said {friend.intro}. “No, thank you!” said {hero}.",
    )
    s.maybe(
        "{Hero} waited one day, two days, three days. The tooth did not fall out.",
        "Every morning, {hero} looked in the mirror. The tooth was still there.",
    )
    s.say(
        "Then {hero} was so hungry that {he} forgot about it. {He} bit into {food}. Crunch!",
        "One afternoon, {parent} gave {him} {food}. {Hero} took a big bite. Crack!",
    )
    s.say(
        "Something small and white fell into {his} hand. “My tooth!” [cried|shouted] {hero}.",
        "“Oh!” said {hero}. There it was, a tiny white tooth.",
    )
    s.maybe("It did not hurt at all.", "{Hero} laughed and showed everyone {his} gap.")
    s.par()
    s.say(
        "That night, {he} put the tooth under {his} pillow. In the morning, there was a [shiny|golden|silver] coin.",
        "{He} put the tooth into a little box and wrote “My first tooth” on it.",
        "{He} put the tooth under {his} pillow and tried to stay awake, but {he} fell asleep.",
    )
    s.say(
        "{Hero} smiled at the mirror, and the gap smiled back.",
        "Now {he} could whistle through the gap.",
        "“I'm growing up,” said {hero}, and {he} stood very straight.",
        "A few weeks later, {he} felt a new tooth there. It was big and strong.",
    )
