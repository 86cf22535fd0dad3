"""The operator's page as HTML: pure functions of the daemon's status at one moment.

The page shows at a glance whether messages flow, and if not, since when and what to do. This package draws it; the
listener (adapters/web/operators_page.py) serves it, with `page.css` and `page.js`.
"""

from typing import Final

LONGEST_QUERY: Final = 200  # characters of an id that is searched for
