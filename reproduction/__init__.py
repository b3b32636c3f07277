"""The paper's tables and figures."""

import support  # noqa: F401  before torch
