"""Laws are checked without a time limit for each example: machines under test are often shared."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
