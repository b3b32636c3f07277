"""The toy world: a structural causal model with MovieLens-1M's schema, small enough to understand.

Every user u has attributes K = (gender, age, occupation) and private variables (taste, history length,
choice noise), all drawn independently of one another:

    gender_u     ~ even over 2 classes          taste_u     ~ Normal(0, I), one entry per genre
    age_u        ~ MovieLens-1M's shares of 7   length_u    ~ uniform over 28 .. 44 movies
    occupation_u ~ even over 21                 noise_u,t,i ~ Gumbel(0, 1), per step and movie

    preference_u = effect * (  0.5 B_gender[gender_u]                            one entry per genre
                             + 0.7 B_age[age_u]
                             + 0.6 B_occupation[occupation_u])
                   + 0.9 taste_u
    score_u,t,i  = 0.7 log_popularity_i + preference_u[genre_i]
                   + 4   [movie i is the sequel of the movie watched at step t - 1]
                   + 0.8 [movie i has the genre of the movie watched at step t - 1]
                   + noise_u,t,i
    watched_u,t  = the unseen movie i with the largest score_u,t,i

So a user's history tells about the attributes (through preference), about the private taste, and
the last movies depend on the ones before. Because the noise is an input like the others, the model
answers counterfactual questions exactly: `watch` with one attribute set to another value and
everything else unchanged gives the twin's history (definition 2.1 of the paper). `effect` = 0 is a
world in which the attributes cause nothing.
"""

from dataclasses import dataclass, replace

import numpy as np

GENRES = ("Action", "Animation", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller")
CHAIN = 5  # movies in a series: the first and its four sequels
N_MOVIES = 160
LENGTHS = 28, 44  # movies that a user watches, both ends included
# users.dat of MovieLens-1M: 222, 1103, 2096, 1193, 550, 496 and 380 of 6,040 users
AGE_SHARES = np.array([222, 1103, 2096, 1193, 550, 496, 380]) / 6040
EFFECTS = {"gender": 0.5, "age": 0.7, "occupation": 0.6}
ADJECTIVES = """
    Amber Broken Crimson Distant Electric Frozen Golden Hidden Iron Jade Lonely Midnight Northern Orchid
    Paper Quiet Restless Silver Tender Velvet Wandering Second Hollow Bright Burning Salt Secret Glass
    Winter Scarlet Open Last"""
NOUNS = """
    Harbour Garden Station Mirror Parade Orchard Signal Voyage Carnival Lantern River Frontier Waltz
    Cathedral Summer Equation Kingdom Postcard Thunder Island Alphabet Engine Letter Masquerade Comet
    Bridge Echo Promise Labyrinth Avenue Balcony Tide"""


@dataclass(frozen=True)
class World:
    """Everything that determines what the users watch; arrays are indexed by user, movie or genre."""

    attributes: dict[str, np.ndarray]  # class of each user, (users,)
    weights: dict[str, np.ndarray]  # B of each attribute, (classes, genres)
    taste: np.ndarray  # (users, genres)
    lengths: np.ndarray  # movies, (users,)
    noise_seeds: np.ndarray  # (users,) of the Gumbel noise, which is too large to be kept
    log_popularity: np.ndarray  # (movies,)
    genre: np.ndarray  # (movies,)
    sequel: np.ndarray  # (movies,) the movie that follows in the series, -1 after the last
    titles: list[str]
    effect: float


def make_world(seed: int, n_users: int, effect: float = 1.0) -> World:
    """Draw a world; the same arguments give the same world on every machine."""
    rng = np.random.default_rng([seed, 1])
    n_genres, n_series = len(GENRES), N_MOVIES // CHAIN
    attributes = {
        "gender": rng.permutation(n_users) % 2,
        "age": rng.choice(7, n_users, p=AGE_SHARES),
        "occupation": rng.integers(21, size=n_users),
    }
    ages = np.arange(7)[:, None]
    gender_sign = rng.permutation(np.repeat([-1.0, 1.0], n_genres // 2))
    weights = {
        "gender": np.stack([gender_sign, -gender_sign]),
        # neighbouring ages are alike, the youngest and the oldest are opposites
        "age": np.sqrt(2)
        * np.cos(np.pi * ages / 6 + 2 * np.pi * rng.permutation(n_genres) / n_genres),
        "occupation": rng.normal(size=(21, n_genres)),
    }
    weights = {key: value - value.mean(1, keepdims=True) for key, value in weights.items()}
    series_genre = rng.permutation(np.arange(n_series) % n_genres)
    adjectives, nouns = rng.permutation(ADJECTIVES.split()), rng.permutation(NOUNS.split())
    movies = np.arange(N_MOVIES)
    part = lambda i: f" {i % CHAIN + 1}" if i % CHAIN else ""
    titles = [f"{adjectives[i // CHAIN]} {nouns[i // CHAIN]}{part(i)}" for i in movies]
    return World(
        attributes=attributes,
        weights=weights,
        taste=rng.normal(size=(n_users, n_genres)),
        lengths=rng.integers(LENGTHS[0], LENGTHS[1] + 1, size=n_users),
        noise_seeds=rng.integers(2**31, size=n_users),
        log_popularity=rng.normal(size=N_MOVIES),
        genre=series_genre[movies // CHAIN],
        sequel=np.where(movies % CHAIN < CHAIN - 1, movies + 1, -1),
        titles=titles,
        effect=effect,
    )


def preferences(world: World, without: str = "") -> np.ndarray:
    """preference_u, (users, genres); `without` an attribute, its part is everybody's mean, not the user's."""
    preference = 0.9 * world.taste  # (users, genres)
    for attr, classes in world.attributes.items():
        part = world.effect * EFFECTS[attr] * world.weights[attr][classes]
        preference = preference + (part.mean(0) if attr == without else part)
    return preference


def lasting_scores(world: World, preference: np.ndarray) -> np.ndarray:
    """What of score_u,t,i is the same at every step, (users, movies), of preferences (users, genres)."""
    return 0.7 * world.log_popularity + preference[:, world.genre]


def add_what_follows(world: World, score: np.ndarray, previous: np.ndarray) -> None:
    """Add to score_u,t,i (users, movies) what the movie watched before, (users,), makes of it."""
    score += 4.0 * (np.arange(N_MOVIES) == world.sequel[previous][:, None])
    score += 0.8 * (world.genre == world.genre[previous][:, None])


def watch(world: World) -> list[np.ndarray]:
    """Each user's history: movie indices in the order in which they are watched. See the equations."""
    n_users, fixed = len(world.lengths), lasting_scores(world, preferences(world))
    noise = [np.random.default_rng(seed) for seed in world.noise_seeds]
    rows = np.arange(n_users)
    unseen = np.ones((n_users, N_MOVIES), dtype=bool)
    previous, steps = np.full(n_users, -1), []
    for step in range(LENGTHS[1]):
        score = fixed + np.stack([rng.gumbel(size=N_MOVIES) for rng in noise])
        if step > 0:
            add_what_follows(world, score, previous)
        previous = np.where(unseen, score, -np.inf).argmax(1)
        unseen[rows, previous] = False
        steps.append(previous)
    watched = np.stack(steps, axis=1)  # (users, steps)
    return [row[:length] for row, length in zip(watched, world.lengths)]


def intervene(world: World, attr: str, classes: np.ndarray) -> World:
    """do(attr = classes): the same users, tastes, lengths and noise with another attribute (users,)."""
    return replace(world, attributes=world.attributes | {attr: classes})


def with_copies(world: World, attr: str, n: int, seed: int) -> World:
    """The world with 2n more users: a twin of each of the first n, then a placebo of each of them.

    A twin has another class of `attr`, half of the classes further on, and everything else unchanged:
    definition 2.1. A placebo has the same attributes and other choice noise: as much as two
    histories of one person differ anyway.
    """
    copied = np.r_[np.arange(len(world.lengths)), np.arange(n), np.arange(n)]
    attributes = {name: classes[copied] for name, classes in world.attributes.items()}
    flipped, twins = attributes[attr].copy(), slice(-2 * n, -n)
    n_classes = len(world.weights[attr])
    flipped[twins] = (flipped[twins] + n_classes // 2) % n_classes
    noise_seeds = world.noise_seeds[copied]
    noise_seeds[-n:] = np.random.default_rng([seed, 16]).integers(2**31, size=n)
    more = replace(
        world,
        attributes=attributes,
        taste=world.taste[copied],
        lengths=world.lengths[copied],
        noise_seeds=noise_seeds,
    )
    return intervene(more, attr, flipped)


def coding(world: World, attr: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How much each movie speaks for one class of `attr` against another, (users, movies), in [-1, 1].

    For classes `before` and `after` (users,): the difference of their entries of B at the movie's
    genre, by its largest absolute value. For gender: 1 in a genre of the one, -1 in one of the other.
    """
    change = world.weights[attr][after] - world.weights[attr][before]  # (users, genres)
    change = change / np.abs(change).max(1, keepdims=True)
    return change[:, world.genre]
