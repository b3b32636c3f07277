"""What is measured further: surfaces, counterfactuals, one person's lists, LEACE."""

import support  # noqa: F401  before torch
