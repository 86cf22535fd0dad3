"""What another gateway would send again, or lose: claims, ambiguous messages, incoming messages in the spool."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.outgoing.abandoned import AbandonedClaims
from cht_rapidpro.jobs.outgoing.claims import Claims
from cht_rapidpro.jobs.outgoing.pause import PauseWatch
from cht_rapidpro.jobs.outgoing.reconciler import Reconciler
from cht_rapidpro.jobs.outgoing.takeover import Takeover

NEXT_STEP: Final = (
    "before another gateway is chosen, type `cht-rapidpro drain`: it would send these again; keep the state directory"
)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """`spooled`: reads how many incoming messages wait in the spool."""

    claims: Claims
    reconciler: Reconciler
    abandoned: AbandonedClaims
    pause: PauseWatch
    takeover: Takeover
    settings: SettingsWatch
    spooled: Callable[[], int]

    def counts(self) -> dict[str, int]:
        return {"claimed": len(self.claims), "ambiguous": len(self.reconciler), "spooled": self.spooled()}

    def plain(self) -> dict[str, Any]:
        """For `cht-rapidpro drain`. `is_draining`: the order has arrived; `is_known`: no claim is left unseen.

        `is_taking_over`: messages from before a takeover have to be decided first.
        """
        reasons = Counter(why for _, why in self.reconciler.undecided())
        return {
            **self.counts(),
            "undecidable": self.reconciler.undecidable,
            "reasons": dict(reasons),
            "is_draining": self.pause.is_draining,
            "is_known": self.abandoned.is_done,
            "is_taking_over": self.settings.target is not None and not self.takeover.is_finished,
        }
