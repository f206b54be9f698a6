"""The plots: functions that add the sentences of one story to a `Story`.

A plot chooses its characters and a row of a table of events that fit together (what is lost, and where it is), and
then adds sentences that are true for any choice. The order of `PLOTS` is part of the corpus.
"""

from . import family, friends, games, garden, growing, home, night


PLOTS = (
    home.lost_toy,
    home.broken_toy,
    home.rainy_day,
    home.messy_room,
    home.mistake,
    night.the_dark,
    night.strange_noise,
    night.sleepless,
    night.camping,
    night.moon_in_pond,
    family.baking,
    family.birthday,
    family.new_baby,
    family.secret,
    family.loose_tooth,
    growing.first_school_day,
    growing.saving,
    friends.new_friend,
    friends.sharing,
    friends.hide_and_seek,
    friends.sick_friend,
    friends.big_and_small,
    garden.nest,
    garden.nobody_to_play,
    garden.found_thing,
)
# Stories full of names, which teach a small model to copy them; see `games`.
GAMES = (games.taking_turns,)
