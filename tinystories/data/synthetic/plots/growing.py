"""Plots about growing up: learning, going to school, saving, performing."""

from ..grammar import Thing
from ..story import Story
from ..words import DAY, MORNING, SNOW, SUMMER


# What is learned, what goes wrong, the advice, and what it looks like in the end.
_SKILLS = (
    (
        "ride a bike",
        "The bike wobbled left and right and fell over",
        "Look straight ahead, and don't stop pedaling",
        "rode all the way to the end of the street",
    ),
    (
        "swim",
        "{He} swallowed some water and had to cough",
        "Kick with your legs and stay calm",
        "swam from one side of the pool to the other",
    ),
    (
        "whistle",
        "Only air came out, and no sound at all",
        "Make your lips round, and blow softly",
        "whistled a whole song",
    ),
    (
        "jump rope",
        "The rope got caught around {his} feet",
        "Listen to the rope, and jump when it touches the ground",
        "jumped fifty times without a mistake",
    ),
    (
        "ice-skate",
        "{His} feet slid away, and {he} sat down on the ice",
        "Bend your knees and make small steps",
        "skated in a big circle",
    ),
    (
        "catch a ball",
        "The ball flew past {his} hands and hit {him} on the nose",
        "Keep your eyes on the ball, not on your hands",
        "caught nine balls out of ten",
    ),
    (
        "juggle",
        "All three balls fell on {his} toes",
        "Start with one ball, then use two, then three",
        "kept three balls in the air",
    ),
    (
        "climb a rope",
        "{He} slid back down to the floor",
        "Hold the rope with your feet, too",
        "climbed to the top and rang the little bell",
    ),
    (
        "play the piano",
        "{His} fingers hit all the wrong keys",
        "Play it slowly first, and count to four",
        "played a song with both hands",
    ),
    (
        "roller-skate",
        "{His} legs went in two directions",
        "Push with one foot and then with the other",
        "rolled around the park without falling",
    ),
)


def learning(s: Story) -> None:
    s.child()
    s.pick((s.friend, s.grandparent, s.parent))(role="friend")
    skill, failure, advice, success = s.pick(_SKILLS)
    s.props(skill=skill, failure=failure, advice=advice, success=success)
    s.open(
        "wanted to learn to {skill}",
        "decided to learn how to {skill}",
        "saw some older children who could {skill}, and {he} wanted to do it, too",
        when=SNOW if skill == "ice-skate" else DAY,
    )
    s.maybe("It looked so easy when other people did it.", "“How hard can it be?” {he} thought.")
    s.say(
        "{He} tried it. {failure}.", "But it was not easy. {failure}.", "On the first try, it did not work. {failure}."
    )
    s.maybe(
        "{He} tried again, and the same thing happened.",
        "The second time, it was even worse.",
        "{He} tried ten times, and {he} failed ten times.",
    )
    s.say(
        "“I can't do it,” {he} said. “I will never learn to {skill}!”",
        "“It's too hard!” [cried|shouted] {hero}. {He} was [angry|upset].",
        "{Hero} wanted to give up.",
    )
    s.par()
    s.say("Just then, {friend.intro} came along and saw {him}.", "But {friend.intro} had been watching.")
    s.say(
        "“I couldn't do it at first, either,” said {friend}. “{advice}.”",
        "“Don't give up,” said {friend}. “{advice}.”",
        "“You're almost there,” said {friend}. “Here is a little trick. {advice}.”",
    )
    s.say(
        "{Hero} nodded and tried it that way. It was a little better.",
        "“All right,” said {hero}. “One more time.” It went a bit better than before.",
    )
    s.say(
        "Every day, {he} practiced. {He} got better and better.",
        "{He} practiced in the morning, and {he} practiced in the evening. {Friend} always cheered.",
        "Day after day, {he} kept trying. Sometimes {he} failed, but not so often.",
    )
    s.par()
    s.say(
        "And then, one day, {hero} {success}!",
        "A week later, {hero} {success}!",
        "At last, it worked. {Hero} {success}!",
    )
    s.say("“I did it! I did it!” {he} [shouted|cried|sang].", "“Look at me!” {he} called. “I can {skill}!”")
    s.maybe(
        "“I knew you could,” said {friend}.", "{Friend} clapped and cheered.", "“Hooray for {hero}!” shouted {friend}."
    )
    s.say(
        "{Hero} learned that you can do hard things if you don't give up.",
        "The next year, {hero} taught a smaller child to {skill}. “Don't give up,” {he} said.",
        "“What shall I learn next?” {hero} wondered.",
        "That evening, {hero} was tired and proud and very happy.",
    )


_WORRIES = ("What if nobody likes me", "What if I get lost", "What if I don't know the answers", "What if I miss you")
_SCHOOL_FUN = (
    ("paint a picture", "painted a house with a red roof"),
    ("sing a song about a frog", "sang louder than anyone else"),
    ("build a bridge with blocks", "built a bridge so strong that it could hold a book"),
    ("count the fish in the class tank", "counted eleven fish and one snail"),
    ("make a paper crown", "made crowns and bowed to each other like kings and queens"),
    ("plant beans in a cup", "pushed beans into the soft soil"),
)


def first_school_day(s: Story) -> None:
    s.child()
    s.friend()
    s.parent()
    task, deed = s.pick(_SCHOOL_FUN)
    s.props(
        worry=s.pick(_WORRIES),
        task=task,
        deed=deed,
        teacher=s.pick(("Miss Hill", "Miss Green", "Miss Potter", "Miss Moon")),
    )
    s.open(
        "went to school for the first time",
        "could not finish {his} breakfast, because it was {his} first day of school",
        "got ready for {his} first day of school",
        when=MORNING,
        likes=(
            "{He} had a new backpack and new shoes.",
            "{He} could already count to twenty and write {his} name.",
            "{He} had never been away from home for a whole morning.",
            "{He} was old enough to tie {his} own shoes.",
        ),
    )
    s.say(
        "{His} tummy felt funny. “{worry}?” {he} asked {parent}.",
        "But {he} was a little scared. “{worry}?” {he} asked.",
    )
    s.say(
        "“You'll be fine,” said {parent}. “[Just be yourself.|Everybody is a little afraid on the first day.]”",
        "{Parent} squeezed {his} hand. “I will be back at noon,” said {parent}.",
    )
    s.maybe(
        "The school was big and noisy, and there were children everywhere.",
        "In the classroom, there were tiny chairs, bright pictures and so many new faces.",
    )
    s.say(
        "{His} teacher, {teacher}, [smiled|gave {him} a warm smile]. “Welcome, {hero},” said {teacher}.",
        "“Come in!” said {his} teacher, {teacher}. “We are happy to have you here.”",
    )
    s.par()
    s.say(
        "In a corner, {hero} saw a {friend.kind} who was all alone. {friend.He} was crying.",
        "Next to the window sat a {friend.kind} with tears in {friend.his} eyes.",
    )
    s.say(
        "{Hero} forgot {his} own fear. “Hi, I'm {hero},” {he} said. “What's your name?”",
        "{Hero} walked over. “My name is {hero},” {he} said. “Are you scared? I am, too.”",
    )
    s.say(
        "“I'm {friend},” [said|whispered] the {friend.kind}.",
        "The {friend.kind} looked up. “I'm {friend},” {friend.he} said.",
    )
    s.say(
        "“Let's sit together,” said {hero}, and {friend} nodded.",
        "“Do you want to sit next to me?” asked {hero}. “Yes, please,” said {friend}.",
    )
    s.say(
        "{Teacher} asked the class to {task}. {Hero} and {friend} {deed}.",
        "“Today, we will {task},” said {teacher}. {Hero} and {friend} {deed}.",
    )
    s.par()
    s.say(
        "At noon, {parent} was waiting at the gate. “How was it?” asked {parent}.",
        "When the bell rang, {hero} was surprised. The morning had gone by so fast!",
    )
    s.say(
        "“I made a friend!” said {hero}. “[Can I go again tomorrow?|I want to stay longer!]”",
        "“School is fun,” {hero} told {parent}. “And {friend} is my friend.”",
    )
    s.say(
        "{Hero} was not afraid anymore.",
        "The next morning, {hero} ran to school, and {friend} ran to meet {him}.",
        "Being kind to someone had made {hero} brave.",
    )


_WISHED = ("scooter", "toy train", "drum", "paint box", "kite", "puppet", "globe", "telescope", "ukulele", "accordion")
_NEEDS = (
    (
        "an old man on a bench",
        "He had not eaten all day",
        "a bowl of hot soup",
        "“Now my belly is warm, and so is my heart,” said the old man",
    ),
    (
        "a little child who was crying",
        "The child had dropped an ice cream cone on the street",
        "a new ice cream cone",
        "The child stopped crying and smiled with a chocolate mouth",
    ),
    (
        "a thin, hungry dog",
        "It looked at {him} with sad brown eyes",
        "a big sausage",
        "The dog ate it in one bite and wagged its tail",
    ),
    (
        "an old woman with an empty basket",
        "She had lost her purse and could not buy bread",
        "a loaf of fresh bread",
        "“You are an angel,” said the old woman",
    ),
    (
        "a woman with a broken umbrella",
        "She was wet, and her baby was wet, too",
        "a new umbrella",
        "“How kind of you!” said the woman, and the baby laughed",
    ),
)


def saving(s: Story) -> None:
    s.child()
    s.grandparent()
    who, need, help_, thanks = s.pick(_NEEDS)
    s.props(toy=s.new_toy(s.pick(_WISHED)), who=who, need=need, help=help_, thanks=thanks)
    s.props(
        work=s.pick(("watered the plants", "swept the floor", "washed the car", "walked the dog", "raked the leaves"))
    )
    s.open(
        "saw {toy.a} in a shop window",
        "stopped in front of the toy store and saw {toy.a}",
        "went into town and found {toy.a} in a shop",
    )
    s.say(
        "“I want to buy that,” {he} said, but it cost twenty coins, and {he} had only one.",
        "{He} wanted it very much, but {his} piggy bank was almost empty.",
    )
    s.say(
        "So {he} {work} for {elder}, and every time {he} got a coin.",
        "“If you help me, you can earn some coins,” said {elder}. So {hero} {work} every week.",
    )
    s.say(
        "{He} put each coin in a jar. Clink! The jar got fuller and fuller.",
        "Slowly, the jar on {his} shelf filled up with coins.",
    )
    s.say(
        "It took [all summer|three months|a long time], but at last {he} had enough.",
        "When {he} had twenty coins, {he} ran to the store.",
    )
    s.par()
    s.say("On the way, {he} met {who}. {need}.", "In front of the store, {he} saw {who}. {need}.")
    s.say(
        "{Hero} looked at the {toy} in the window. Then {he} looked at the coins in {his} hand.",
        "{Hero} thought about it for a long time. “I can wait for my {toy},” {he} said to {himself}.",
    )
    s.say(
        "{He} took {his} coins and bought {help}.", "{He} went into a shop, and when {he} came out, {he} had {help}."
    )
    s.say("{thanks}.")
    s.par()
    s.say(
        "When {hero} got home, {he} told {elder} about it. The jar was empty, but {he} was not sad.",
        "“Where is your {toy}?” asked {elder}. {Hero} told the whole story.",
    )
    s.maybe(
        "“I'm proud of you,” said {elder}. "
        "“[A good heart is better than any toy.|You gave away your coins, and you look richer than before.]”",
        "{Elder} hugged {him} for a long time and could not say a word.",
    )
    s.say(
        "On {his} next birthday, there was a big box for {him}. Inside was {toy.the_full}!",
        "The next day, {hero} put a new coin in the jar. Clink!",
        "A week later, {elder} gave {him} a present. It was {toy.the_full} from the store.",
    )


_ROLES = (
    ("a tree", "The wind is blowing through my leaves"),
    ("a king", "Bring me my golden crown"),
    ("the moon", "Good night, children, I will watch over you"),
    ("a lion", "I am the king of the forest"),
    ("a mouse", "Who has eaten my cheese"),
    ("a snowflake", "I have come all the way from the North Pole"),
    ("a clown", "Has anyone seen my other shoe"),
    ("an onion", "Please don't cry, I'm only an onion"),
)


def stage_fright(s: Story) -> None:
    s.child()
    s.friend()
    s.grandparent()
    role, line = s.pick(_ROLES)
    mark = "?" if line.startswith(("Who", "Has")) else "."
    s.props(role=role, line=line, mark=mark)
    s.open("got a part in the school play", "was going to be in the school play", "was chosen for the school play")
    s.say(
        "{He} was {role}, and {he} had to say one line. “{line}{mark}”",
        "{He} had to play {role}. {His} only line was, “{line}{mark}”",
    )
    s.maybe(
        "{He} said it in the bath, {he} said it on the stairs, and {he} even said it in {his} sleep.",
        "{He} practiced it with {elder} every evening until {he} knew it by heart.",
    )
    s.say(
        "But then the big night came. {Hero} looked through the curtain and saw a hundred faces.",
        "When the day came, {hero} stood behind the stage. {His} knees were like jelly.",
    )
    s.say(
        "“I can't go out there,” {he} whispered. “[I have forgotten everything!|My head is empty!]”",
        "“I feel sick,” {he} whispered. “What if everybody laughs?”",
    )
    s.par()
    s.say(
        "{His} friend {friend.who} took {his} hand. “I'm scared, too,” said {friend}. “Let's be scared together.”",
        "“Look for one friendly face,” said {his} friend {friend.who}. “And then talk only to that face.”",
    )
    s.say(
        "{Hero} looked again. In the first row sat {elder}, smiling and waving.",
        "{Hero} took three deep breaths. Far away, in the last row, {he} saw {elder}.",
    )
    s.say(
        "The music began. {Hero} walked out into the bright light, opened {his} mouth and said, “{line}{mark}”",
        "Then it was {hero}'s turn. {He} stepped out and said loudly and clearly, “{line}{mark}”",
    )
    s.say("It was very quiet. And then everyone clapped!", "Nobody laughed at {him}. They clapped and cheered.")
    s.par()
    s.maybe(
        "“You were wonderful!” said {elder} after the play.",
        "“I heard every word!” said {elder}. “You were the best one of all.”",
    )
    s.say(
        "“Next year, I want two lines,” said {hero}.",
        "{Hero} bowed so often that {he} got dizzy.",
        "{Hero} was still a little scared, but now {he} knew that {he} could do it all the same.",
    )


def race(s: Story) -> None:
    s.anyone()
    s.friend(kinds=("rabbit", "squirrel", "hedgehog", "otter", "raccoon", "cat", "mouse", "kitten"))
    s.props(prize=Thing(*s.pick((("cup", "golden"), ("ribbon", "blue"), ("medal", "chocolate"), ("basket", "fruit")))))
    s.props(goal=s.pick(("the old bridge", "the big oak tree", "the red barn", "the end of the meadow")))
    s.open("wanted to win the big race", "was going to run in a race", "heard about a race", when=SUMMER)
    s.say("The winner would get {prize.a}.", "Everyone was talking about it. The prize was {prize.a}.")
    s.maybe(
        "{Hero} [was very fast|had trained for weeks]. “I'm going to win,” {he} said.",
        "Every morning, {he} ran around the [pond|field] three times.",
    )
    s.say(
        "“Good luck,” said {friend.intro}. “I'm running, too.”",
        "{His} friend {friend.who} wanted to run, too. “May the best one win,” said {friend}.",
    )
    s.say("“Ready, set, go!” They ran as fast as the wind.", "The whistle blew, and off they went toward {goal}.")
    s.maybe(
        "Soon {hero} and {friend} were ahead of all the others.",
        "{Hero} was first, and {friend} was right behind {him}.",
    )
    s.par()
    s.say(
        "Then {hero} heard a cry. {Friend} had [tripped over a root|slipped in the mud|stepped into a hole] and could "
        "not get up.",
        "Suddenly, {friend} fell. “Ow, my [knee|ankle|leg]!” {friend.he} cried.",
    )
    s.say(
        "{Hero} could already see {goal}. {He} could win now! But {he} stopped and turned around.",
        "{Hero} looked at {goal}. It was so close. Then {he} looked back at {friend}, and {he} knew what to do.",
    )
    s.maybe(
        "“What are you doing?” asked {friend}. “You will lose!” "
        "“[You are more important than {prize.a}|I don't care],” said {hero}.",
        "“Run!” said {friend}. “Not without you,” said {hero}.",
    )
    s.say(
        "{He} helped {friend} up, and they walked on slowly, side by side.",
        "{Friend} leaned on {him}, and step by step they went on together.",
    )
    s.say(
        "The others ran past them. They came in last.",
        "One by one, all the others passed them. When they got to {goal}, the race was over.",
    )
    s.par()
    s.say(
        "But everyone [cheered and clapped|stood up and clapped] for them louder than for the winner.",
        "The winner came up to them. “You should have this,” said the winner, and gave {hero} {prize.the_full}.",
    )
    s.say(
        "{Hero} had lost the race, but {he} felt like a winner.",
        "“Thank you,” said {friend}. “You are the best friend in the world.”",
        "“Next year, let's cross the line together,” said {friend}. And that is what they did.",
        "{Hero} knew that a friend is better than any prize.",
    )
