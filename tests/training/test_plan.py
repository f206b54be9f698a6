"""The plan of a recipe for a text, a speed and a number of minutes."""

import itertools

import pytest

from tinystories.recipe import build_recipe
from tinystories.training.arguments import training_arguments
from tinystories.training.fine_tuning_plan import EPOCHS, make_fine_tuning_plan
from tinystories.training.plan import (
    MAX_HELD_OUT,
    SHAPES,
    Speed,
    Text,
    expected_bits_per_byte,
    held_out_stories,
    make_plan,
)


BYTES_PER_STORY = 816  # of TinyStories
SIZES = [10**3, 10**4, 8 * 10**4, 10**6, 13 * 10**6, 2 * 10**9]
MINUTES = [0.1, 2, 5, 20, 60, 600]
SPEEDS = [Speed(5e9, 0.05), Speed(), Speed(100e12, 0.001)]


def text_of(size):
    return Text(size, max(2, size // BYTES_PER_STORY))


@pytest.mark.parametrize("speed", SPEEDS, ids=["slow", "two cores", "GPU"])
def test_plans_are_recipes_that_fit_the_text_and_the_time(speed):
    for size, minutes in itertools.product(SIZES, MINUTES):
        text = text_of(size)
        plan = make_plan(text, minutes, speed, gpu=speed.flops_per_second > 1e12)
        recipe = build_recipe(plan.recipe())
        arguments = training_arguments(recipe)
        case = f"{size} bytes, {minutes} minutes: {plan}"
        assert 0 < plan.minutes <= minutes, case
        assert plan.shape in SHAPES and plan.steps >= 1 and plan.tokens >= 1, case
        flops = plan.shape.flops_per_step(plan.vocab_size, plan.batch_rows * plan.row_length)
        assert plan.steps * speed.seconds_per_step(flops, plan.shape.num_hidden_layers) < 60 * minutes * 1.01, case
        assert 0 < arguments.warmup_steps < 0.2, "a fraction of the time, so that it always fits"
        assert 0.1 <= plan.weight_decay <= 2 and 0 <= plan.dropout <= 0.3, case
        assert 1 <= plan.held_out <= min(MAX_HELD_OUT, max(1, text.stories // 2)), case
        assert round(recipe.validation_fraction * text.stories) == pytest.approx(plan.held_out, abs=1), case
        assert recipe.row_length >= recipe.max_length and recipe.max_minutes == plan.minutes, case
        assert plan.batch_rows * plan.row_length <= max(plan.row_length, 2 * size), "no batch exceeds the text"
        assert plan.evaluations * plan.recipe()["trainer"]["eval_steps"] <= plan.steps, case
        assert len(plan.reasons()) == 5 and all("\n" not in line for line in plan.reasons()), case
        warned = any("could be held out" in line for line in plan.advice())
        assert warned == (plan.held_out < 20), "few held-out stories are reported"


def test_more_time_and_more_text_give_better_and_no_smaller_models():
    for size in SIZES:
        plans = [make_plan(text_of(size), minutes) for minutes in MINUTES]
        losses = [plan.bits_per_byte for plan in plans]
        assert all(later <= before * 1.006 for before, later in itertools.pairwise(losses)), losses
        parameters = [plan.shape.parameters for plan in plans]
        assert parameters == sorted(parameters), parameters
    for minutes in MINUTES:
        plans = [make_plan(text_of(size), minutes) for size in SIZES]
        losses = [plan.bits_per_byte for plan in plans]
        assert all(later <= before * 1.006 for before, later in itertools.pairwise(losses)), losses
        epochs = [round(plan.epochs) for plan in plans]
        assert epochs == sorted(epochs, reverse=True), epochs
        decays = [(plan.weight_decay, plan.dropout) for plan in plans]
        assert decays == sorted(decays, reverse=True), "regularisation grows with the number of epochs"


def test_a_faster_machine_gets_a_larger_model():
    text = text_of(13 * 10**6)
    slow, normal, fast = (make_plan(text, 20, speed).shape.parameters for speed in SPEEDS)
    assert slow < normal < fast


def test_little_text_does_not_use_many_minutes():
    short, long = make_plan(text_of(20_000), 0.02), make_plan(text_of(20_000), 600)
    assert short.minutes == 0.02 and long.minutes < 600
    assert any("More text would help" in line for line in long.advice())
    assert any("more text" in line.lower() for line in make_plan(text_of(80_000), 60).advice())
    plenty = make_plan(text_of(2 * 10**9), 20)
    assert plenty.minutes == 20 and not any("more text" in line.lower() for line in plenty.advice())
    assert plenty.with_twice_the_minutes < plenty.bits_per_byte


def test_fine_tuning_the_built_in_model_is_advised_for_little_text():
    for size, advised in ((40_000, True), (400_000, True), (13 * 10**6, False), (2 * 10**9, False)):
        lines = make_plan(text_of(size), 2).advice()
        assert any("--init_from builtin" in line for line in lines) == advised, lines


def test_only_a_part_of_a_large_text_is_read():
    large = make_plan(text_of(2 * 10**9), 2)
    assert large.epochs * large.text.stories < large.recipe()["max_stories"] < large.text.stories / 2
    assert "stories, of which the first" in large.reasons()[3]
    assert make_plan(text_of(10**6), 2).recipe()["max_stories"] is None


def test_the_users_shape_and_vocabulary_are_planned_with():
    shape = SHAPES[3]
    plan = make_plan(text_of(10**6), 5, fixed_shape=shape, vocab_size=777)
    assert plan.shape == shape and plan.vocab_size == 777
    assert plan.steps < make_plan(text_of(10**6), 5, fixed_shape=SHAPES[0], vocab_size=777).steps


def test_stories_held_out():
    assert [held_out_stories(stories) for stories in (2, 100, 1_200, 16_000, 2_000_000)] == [1, 10, 69, 253, 400]
    without, with_own = Text(10**6, 1_200), Text(10**6, 1_200, has_validation=True)
    assert "69 stories of 1,200" in make_plan(without, 2).reasons()[4]
    assert "own validation split" in make_plan(with_own, 2).reasons()[4]


def test_the_scaling_law_decreases_in_each_argument():
    base = expected_bits_per_byte(1e6, 2e6, 1e6)
    assert expected_bits_per_byte(2e6, 2e6, 1e6) < base
    assert expected_bits_per_byte(1e6, 3e6, 1e6) < base
    assert expected_bits_per_byte(1e6, 2e6, 2e6) < base, "new text is worth more than repeated text"
    assert expected_bits_per_byte(1e6, 2e6, 2e6) == expected_bits_per_byte(1e6, 2e6, 9e9), "of one epoch, all is new"


def test_long_stories_get_a_longer_context():
    assert make_plan(Text(10**6, 5_000, long_story=300), 2).max_length == 256
    assert make_plan(Text(10**6, 100, long_story=20_000), 2).max_length == 512


@pytest.mark.parametrize("speed", SPEEDS, ids=["slow", "two cores", "GPU"])
def test_fine_tuning_plans_keep_the_shape_and_fit_the_text_and_the_time(speed):
    shape = SHAPES[3]
    model = {"model": "builtin", "shape": shape, "vocab_size": 4_096, "context": 512, "bytes_per_token": 3.8}
    for size, minutes in itertools.product(SIZES, MINUTES):
        text = text_of(size)
        plan = make_fine_tuning_plan(text, minutes, speed, **model)
        recipe = build_recipe(plan.recipe())
        arguments = training_arguments(recipe)
        case = f"{size} bytes, {minutes} minutes: {plan}"
        assert recipe.init_from == "builtin" and not recipe.model, case
        assert 0 < plan.minutes <= minutes and 0 < plan.epochs <= EPOCHS, case
        flops = shape.flops_per_step(4_096, plan.batch_rows * plan.row_length)
        needed = plan.steps * speed.seconds_per_step(flops, shape.num_hidden_layers)
        assert plan.steps == 1 or needed < 60 * minutes * 1.01, case
        assert plan.row_length >= plan.max_length <= 512, case
        assert arguments.eval_strategy == "steps" and arguments.eval_steps <= plan.steps, "the best weights are kept"
        assert arguments.learning_rate <= 3e-3 and len(plan.reasons()) == 5, case
        assert any("could be held out" in line for line in plan.advice()) == (plan.held_out < 20), case
    assert make_fine_tuning_plan(text_of(40_000), 60, speed, **model).minutes < 60, "little text is not memorised"
