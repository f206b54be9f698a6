"""Plots about growing up: going to school, and saving for what one wants."""

from ..story import Story
from ..words import MORNING


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


_WISHED = ("scooter", "toy train", "drum", "paint box", "kite", "puppet", "globe", "telescope")
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
