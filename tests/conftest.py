"""What all tests share: Hypothesis tries the same examples in every run of `make test`.

New examples are looked for by `make test-full` (HYPOTHESIS_PROFILE=explore): a find there
is a bug to fix, not a red build of somebody else's change.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
