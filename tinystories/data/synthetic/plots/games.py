"""Games of two friends who take turns and call each other by name.

In these short stories, a quarter of the words are names. A small model learns from them to copy names from the
context, also in stories of other plots (benchmarks/RACE.md).
"""

from typing import NamedTuple

from ..story import Story


class Game(NamedTuple):
    """What the friends do first, what happens in each turn, and how the game ends; `{one}` acts on `{other}`."""

    deeds: tuple[str, ...]
    turns: tuple[str, ...]
    ends: tuple[str, ...]


_ANY_TURN = (
    "“Now you, {other},” said {one}.",
    "{One} laughed, and {other} laughed, too.",
    "“Well done, {other}!” said {one}.",
    "{One} smiled at {other}.",
)
_GAMES = (
    Game(
        ("took a ball to the park", "played with a [big|red|new] ball"),
        (
            "{One} threw the ball to {other}.",
            "“Catch, {other}!” said {one}.",
            "{One} kicked the ball, and {other} caught it.",
            "{One} rolled the ball to {other}.",
        ),
        ("The ball fell into a puddle, and they both laughed.", "Soon it was time for dinner."),
    ),
    Game(
        ("ran to the swings", "went to the playground"),
        (
            "{One} pushed {other} on the swing.",
            "“Hold on, {other}!” said {one}.",
            "“Look at me, {other}!” said {one}.",
            "Then it was {one}'s turn, and {other} pushed the swing.",
        ),
        ("They went so high that they could see the pond.", "Then a bell rang, and it was time to go home."),
    ),
    Game(
        ("wanted to build a tower", "took the [wooden |]blocks out of the box"),
        (
            "{One} gave {other} a [red|blue|green|yellow] block.",
            "“Be careful, {other},” said {one}.",
            "{One} put a block on top of {other}'s block.",
            "“One more, {other}!” said {one}.",
        ),
        ("The tower fell down, and they built it again.", "The tower was as tall as a chair."),
    ),
    Game(
        ("wanted to draw a picture together", "sat down with some paper and a box of crayons"),
        (
            "{One} drew a [tree|flower|cloud] next to {other}'s [house|boat|cat].",
            "{One} gave {other} the [green|red|blue] crayon.",
            "“I like your picture, {other},” said {one}.",
            "“Look at this, {other},” said {one}.",
        ),
        ("They put the picture on the wall.", "Soon the paper was full."),
    ),
    Game(
        ("had a tea party", "had a picnic [on the grass|under a tree]"),
        (
            "{One} gave {other} a [cookie|strawberry|sandwich].",
            "“Thank you, {other},” said {one}.",
            "“More tea, {other}?” asked {one}.",
            "{One} poured some tea for {other}.",
        ),
        ("Soon the plate was empty.", "A little bird got the last crumbs."),
    ),
    Game(
        ("played a game of tag", "played tag in the garden", "played tag behind the house"),
        (
            "{One} ran after {other}.",
            "“I will catch you, {other}!” said {one}.",
            "“You're too fast, {other}!” said {one}.",
            "{One} touched {other}'s back and ran away.",
        ),
        ("At last they fell down in the grass.", "They ran until they were tired."),
    ),
)
_GOODBYES = (
    "“See you tomorrow, {friend}!” said {hero}. “See you tomorrow, {hero}!” said {friend}.",
    "{Hero} hugged {friend}, and {friend} hugged {hero}.",
    "“That was fun, {friend},” said {hero}. “Let's do it again, {hero},” said {friend}.",
    "“You're my best friend, {friend},” said {hero}. “And you're mine, {hero},” said {friend}.",
)
_WITH_A_NEIGHBOR = (
    "Once upon a time, {hero.a} and {neighbor.intro}, {deed}.",
    "One day, {hero.a} and {neighbor.intro}, {deed}.",
    "{hero.A} and {neighbor.intro}, {deed}.",
)


def taking_turns(s: Story) -> None:
    game = s.pick(_GAMES)
    if s.chance(0.2):
        s.child()
        s.cast("friend", s.neighbor())
        s.props(deed=s.pick(game.deeds))
        s.say(*_WITH_A_NEIGHBOR)
    else:
        if s.chance(0.75):
            s.child()
        else:
            s.animal(named=1)
        s.playmate()
        s.open_for_two(*game.deeds)
    turn = [s.who("hero"), s.who("friend")]
    for sentence in s.pick_some(game.turns + _ANY_TURN, s.pick((5, 6, 7, 8))):
        s.cast("one", turn[0])
        s.cast("other", turn[1])
        s.say(sentence)
        turn.reverse()
    s.par()
    s.say(*game.ends)
    s.say(*_GOODBYES)
